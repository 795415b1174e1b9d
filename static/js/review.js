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
    // The back button may show this very page again.
    addEventListener("pageshow", () => (this.busy = false));
  }

  onKey(event) {
    const { target } = event;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.matches?.("textarea")) {
      event.preventDefault();
      if (!event.repeat) target.form.requestSubmit();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
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

customElements.define("review-desk", ReviewDesk);
