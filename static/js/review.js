// The keys of Review and of Disagreements. Both pages are plain forms and links; a key
// presses one of them.
//
// Guards, as on Judge: nothing counts before the page is painted; keys are dead while
// typing, in sheets, on focused buttons and links, with modifier keys and on key repeat;
// one deed at a time.

import { gettext } from "./words.js";
import { toast } from "./frame.js";

class ReviewDesk extends HTMLElement {
  connectedCallback() {
    this.painted = this.busy = false;
    this.places = [...this.querySelectorAll(".place-button")];
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.addEventListener("submit", (event) => this.onSubmit(event));
    for (const sheet of this.querySelectorAll("[popover].sheet")) {
      sheet.addEventListener("toggle", (event) => this.onSheet(event, sheet));
    }
    this.addEventListener("click", (event) => {
      const place = event.target.closest("[data-place]");
      if (place) this.choosePlace(place.dataset.place);
    });
    requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        this.painted = true;
        this.dataset.painted = "";
        if (this.dataset.opens) this.open(this.dataset.opens);
      }),
    );
    // The back button may restore this page.
    addEventListener("pageshow", () => (this.busy = false));
  }

  onKey(event) {
    const { target } = event;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.matches?.("textarea")) {
      event.preventDefault();
      if (!event.repeat) target.form.requestSubmit();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (document.querySelector(":popover-open, dialog[open]")) {
      if (key === "?" && !target.matches("textarea, input")) this.querySelector("#keys:popover-open")?.hidePopover();
      return;
    }
    if (target.closest?.("textarea, select, [contenteditable], input:not([type=checkbox], [type=radio])")) return;
    if (event.repeat && key !== "j" && key !== "k") return;
    if (!this.painted || this.busy) return;
    if (this.perform(key)) event.preventDefault();
  }

  perform(key) {
    if (key === "a") return this.submit("approve");
    if (key === "e") return this.submit("fix");
    if (key === "r") return this.open("return");
    if (key === "c") {
      this.choosePlace(document.activeElement?.dataset?.place ?? "");
      return this.open("comment");
    }
    if (key === "?") return this.open("keys");
    if (key === "j" || key === "k") return this.moveBy(key === "j" ? 1 : -1);
    if (key === "n" || key === "p") {
      const link = this.querySelector(key === "n" ? "#next" : "#previous");
      if (link) link.click();
      else toast(key === "n" ? gettext("This is the last one.") : gettext("This is the first one."), { level: "info", seconds: 3 });
      return true;
    }
    return false;
  }

  submit(id) {
    const form = this.querySelector(`#${id}`);
    form?.requestSubmit();
    return Boolean(form);
  }

  open(id) {
    const sheet = this.querySelector(`#${id}`);
    if (!sheet) return false;
    sheet.showPopover();
    return true;
  }

  onSheet(event, sheet) {
    if (event.newState !== "open") return;
    sheet.querySelector("textarea, button")?.focus();
  }

  onSubmit(event) {
    if (event.target.method !== "post") return;
    if (this.busy) event.preventDefault();
    this.busy = true;
  }

  choosePlace(key) {
    const select = this.querySelector("#comment-place");
    if (select) select.value = key;
  }

  moveBy(step) {
    const at = this.places.indexOf(document.activeElement);
    const place = this.places[at < 0 ? (step > 0 ? 0 : this.places.length - 1) : at + step];
    place?.focus();
    place?.scrollIntoView({ block: "nearest" });
    return Boolean(this.places.length);
  }
}

class DisputeDesk extends ReviewDesk {
  connectedCallback() {
    super.connectedCallback();
    this.form = this.querySelector("#settle");
    this.places = [...this.querySelectorAll('input[name="units"]')];
    this.addEventListener("change", (event) => {
      if (event.target.name === "units") this.followReason(event.target);
    });
    this.addEventListener("click", (event) => this.onUnit(event));
  }

  get verdict() {
    return this.form?.querySelector('input[name="verdict"]:checked')?.value ?? "";
  }

  perform(key) {
    const settles = this.form?.querySelector('input[name="verdict"]');
    if (!settles || "np?".includes(key)) return super.perform(key);
    const isNot = this.verdict === "0";
    if (isNot && /^[1-9]$/.test(key)) this.toggle(this.form.querySelectorAll('input[name="reasons"]')[Number(key) - 1]);
    else if (key === "0" || key === "1") this.form.querySelector(`input[name="verdict"][value="${key}"]`).checked = true;
    else if (key === "Enter") {
      if (document.activeElement?.closest("button, a, summary")) return false;
      if (this.verdict) this.form.requestSubmit();
    } else if (key === "Escape") for (const radio of this.form.querySelectorAll('input[name="verdict"]')) radio.checked = false;
    else if (isNot && (key === "j" || key === "k")) return this.moveBy(key === "j" ? 1 : -1);
    else if (isNot && key === "x") {
      const box = this.places.includes(document.activeElement) ? document.activeElement : this.places[0];
      this.toggle(box);
    } else if (key === "m") this.form.querySelector("#settle-comment").focus();
    else if (key === "i") this.toggle(this.form.querySelector('input[name="pin"]'));
    else return false;
    return true;
  }

  /** A click anywhere on a unit marks it, once "not consistent" is chosen. */
  onUnit(event) {
    if (this.verdict !== "0" || event.target.closest("label, button, a, input")) return;
    const unit = event.target.closest("[data-unit]");
    if (!unit || !getSelection().isCollapsed) return;
    this.toggle(this.places.find((box) => box.value === unit.dataset.unit));
  }

  toggle(box) {
    if (!box) return;
    box.checked = !box.checked;
    if (box.name === "units") this.followReason(box);
  }

  /** A reason is ticked while a unit with this reason is marked. */
  followReason(box) {
    const { reason } = box.dataset;
    const field = [...this.form.querySelectorAll('input[name="reasons"]')].find((one) => one.value === reason);
    if (field) field.checked = this.places.some((one) => one.checked && one.dataset.reason === reason);
  }
}

customElements.define("review-desk", ReviewDesk);
customElements.define("dispute-desk", DisputeDesk);
