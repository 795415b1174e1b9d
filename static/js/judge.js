// The Judge page's keyboard. The page is a plain form and works without this module: the
// verdict is two radio buttons, each unit that may differ and each reason a box. Here keys
// and clicks turn those same fields, and htmx swaps in the next pair.
//
// Guards: nothing counts before the pair is painted; keys are dead while typing, in dialogs
// and drawers, with modifier keys and on key repeat; one submission at a time.

import { csrfToken, toast } from "./frame.js";

const RETRY_SECONDS = 3;

class JudgeStage extends HTMLElement {
  connectedCallback() {
    this.form = this.querySelector("form.stage");
    if (!this.form) return;
    this.painted = 0;
    this.busy = false;
    this.current = -1;
    this.boxes = [...this.form.querySelectorAll('input[name="units"]')];
    this.reasons = [...this.form.querySelectorAll('input[name="reasons"]')];
    this.stops = new AbortController();
    const listen = (target, name, handler, options = {}) =>
      target.addEventListener(name, handler, { signal: this.stops.signal, ...options });

    listen(document, "keydown", (event) => this.onKey(event));
    listen(this.form, "change", (event) => this.onChange(event));
    listen(this, "click", (event) => this.onClick(event));
    listen(this.form, "submit", (event) => this.onSubmit(event), { capture: true });
    listen(this.form, "htmx:confirm", (event) => {
      if (this.busy || !this.painted) event.preventDefault();
    });
    listen(this, "htmx:beforeRequest", (event) => this.onRequest(event));
    listen(this, "htmx:responseError", (event) => this.onRefused(event));
    for (const name of ["htmx:sendError", "htmx:timeout"]) {
      listen(this, name, (event) => this.onLost(event));
    }
    listen(document, "concord:signed-out", () => this.setBusy(false));
    listen(this.querySelector("#order"), "close", (event) => this.onOrderAnswered(event));
    listen(document, "visibilitychange", () => this.onVisibility());

    this.hiddenSince = 0;
    this.secondsHidden = 0;
    this.isActive = false;
    for (const name of ["keydown", "pointerdown", "pointermove", "scroll"]) {
      listen(document, name, () => (this.isActive = true), { passive: true, capture: true });
    }
    const third = (Number(this.form.dataset.leaseSeconds) * 1000) / 3;
    this.extending = setInterval(() => this.extendLease(), Math.max(third, 5000));
    this.showMarks();
    // Two frames: the first is about to be painted, the second follows that paint.
    requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        this.painted = performance.now();
        this.dataset.painted = "";
      }),
    );
  }

  disconnectedCallback() {
    this.stops?.abort();
    this.lost?.remove();
    clearTimeout(this.retry);
    clearInterval(this.extending);
  }

  // --- what is chosen -------------------------------------------------------------

  get verdict() {
    return this.form.querySelector('input[name="verdict"]:checked')?.value ?? "";
  }

  chooseNot(units = null) {
    this.form.querySelector('input[name="verdict"][value="0"]').checked = true;
    for (const box of this.boxes) {
      box.checked = units ? units.includes(box.value) : box.hasAttribute("data-proposed");
    }
    this.setReasonsFromUnits();
    this.showMarks();
    const first = this.boxes.findIndex((box) => box.checked);
    if (first >= 0) this.moveTo(first);
  }

  takeBack() {
    for (const radio of this.form.querySelectorAll('input[name="verdict"]')) radio.checked = false;
    this.unmarkCurrent();
    this.showMarks();
  }

  /** Toggle a unit. Before a decision this means "not consistent, because of this unit". */
  toggle(key) {
    if (this.verdict !== "0") {
      this.chooseNot([key]);
      return;
    }
    const box = this.boxes.find((one) => one.value === key);
    if (!box) return;
    box.checked = !box.checked;
    this.followReason(box);
    this.moveTo(this.boxes.indexOf(box), { quietly: true });
    this.showMarks();
  }

  followReason(box) {
    const reason = box.dataset.reason || this.reasonOfKey(box.value);
    const field = this.reasons.find((one) => one.value === reason);
    if (!field || field.dataset.byHand) return;
    field.checked = this.boxes.some(
      (one) => one.checked && (one.dataset.reason || this.reasonOfKey(one.value)) === reason,
    );
  }

  setReasonsFromUnits() {
    for (const field of this.reasons) {
      delete field.dataset.byHand;
      field.checked = false;
    }
    for (const box of this.boxes) if (box.checked) this.followReason(box);
  }

  /** What a marked unit means when the alignment had nothing to say about it. */
  reasonOfKey(key) {
    if (key === "result") return "use of result";
    if (key.endsWith("/name")) return "action name";
    if (key.includes("/parameters/")) return "parameter";
    return "content";
  }

  showMarks() {
    const chosen = this.verdict === "0";
    this.form.classList.toggle("no-chosen", chosen);
    const marked = new Set(chosen ? this.boxes.filter((box) => box.checked).map((box) => box.value) : []);
    for (const element of this.form.querySelectorAll("[data-unit]")) {
      element.classList.toggle("marked", marked.has(element.dataset.unit));
    }
  }

  // --- moving among units ---------------------------------------------------------

  moveTo(index, { quietly = false } = {}) {
    this.unmarkCurrent();
    this.current = Math.max(0, Math.min(index, this.boxes.length - 1));
    const box = this.boxes[this.current];
    if (!box) return;
    const elements = this.elementsOf(box.value);
    for (const element of elements) element.classList.add("current");
    if (quietly) return;
    elements.at(-1)?.scrollIntoView({ block: "nearest" });
    box.focus({ preventScroll: true });
  }

  elementsOf(key) {
    return [...this.form.querySelectorAll("[data-unit]")].filter((one) => one.dataset.unit === key);
  }

  unmarkCurrent() {
    if (document.activeElement?.name === "units") document.activeElement.blur();
    for (const element of this.form.querySelectorAll(".current")) element.classList.remove("current");
  }

  // --- keys and clicks ------------------------------------------------------------

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const target = event.target;
    const typing = target.closest?.('textarea, select, [contenteditable], input:not([type="checkbox"], [type="radio"])');
    if (document.querySelector(":popover-open, dialog[open]")) {
      if (!typing && !event.repeat) this.onSheetKey(event);
      return;
    }
    if (typing) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    // A focused button or link keeps its own keys.
    if ((key === "Enter" || key === " ") && target.closest?.("button, a, summary")) return;
    const repeats = key === "j" || key === "k";
    if (event.repeat && !repeats) {
      if (/^[0-9]$/.test(key) || key === "Enter") event.preventDefault();
      return;
    }
    if (!this.painted || this.busy) {
      if (/^[0-9]$/.test(key) || key === "Enter") event.preventDefault();
      return;
    }
    if (this.perform(key)) event.preventDefault();
  }

  perform(key) {
    const notChosen = this.verdict === "0";
    if (key === "0") this.chooseNot();
    else if (/^[1-9]$/.test(key)) {
      if (notChosen) this.toggleReason(Number(key) - 1);
      else if (key === "1") this.chooseConsistent();
      else return false;
    } else if (key === "Enter") {
      if (!this.verdict) return true;
      if (this.verdict === "1") this.chooseConsistent();
      else this.send();
    } else if (key === "Escape") this.takeBack();
    else if (key === "j") this.moveTo(this.current + 1);
    else if (key === "k") this.moveTo(this.current < 0 ? 0 : this.current - 1);
    else if (key === "x") {
      const box = this.boxes[this.current] ?? this.boxes.find((one) => one.hasAttribute("data-proposed"));
      if (box) this.toggle(box.value);
    } else if (key === "s") this.open("skip");
    else if (key === "u") this.form.querySelector("button.undo:not(:disabled)")?.click();
    else if (key === "?") this.open("keys");
    else if (key === "d") this.classList.toggle("no-differences");
    else if (key === "t") this.classList.toggle("folded");
    else if (key === "h" || key === "c" || key === "g") {
      const hash = { h: "#history", c: "#contexts", g: "/guideline/" }[key];
      this.querySelector(`a[data-drawer][href$="${hash}"]`)?.click();
    } else return false;
    return true;
  }

  /** In an open sheet only its own keys live: a digit picks a skip reason, Y answers. */
  onSheetKey(event) {
    const order = this.querySelector("#order");
    if (order.open && event.key.toLowerCase() === "y") {
      event.preventDefault();
      order.close("yes");
      return;
    }
    const skip = this.querySelector("#skip:popover-open");
    if (skip && /^[1-9]$/.test(event.key)) {
      const choice = skip.querySelectorAll('input[name="reason"]')[Number(event.key) - 1];
      if (choice) {
        choice.checked = true;
        choice.focus();
      }
    } else if (skip && event.key === "Enter" && event.target.matches("input")) {
      event.preventDefault();
      skip.querySelector('button[type="submit"]').click();
    } else if (event.key === "?") this.querySelector("#keys:popover-open")?.hidePopover();
  }

  open(id) {
    const sheet = this.querySelector(`#${id}`);
    sheet.showPopover();
    sheet.querySelector("input, button")?.focus();
  }

  toggleReason(index) {
    const field = this.reasons[index];
    if (!field) return;
    field.checked = !field.checked;
    field.dataset.byHand = "1";
  }

  onChange(event) {
    const field = event.target;
    if (field.name === "units") {
      this.followReason(field);
      if (this.verdict !== "0") this.chooseNot([field.value]);
      this.moveTo(this.boxes.indexOf(field), { quietly: true });
      this.showMarks();
    } else if (field.name === "reasons") field.dataset.byHand = "1";
    else if (field.name === "verdict") {
      if (field.value === "0") this.chooseNot();
      else {
        this.unmarkCurrent();
        this.showMarks();
      }
    }
  }

  onClick(event) {
    const { target } = event;
    if (target.closest("a[data-drawer]")) {
      event.preventDefault();
      this.openDrawer(target.closest("a[data-drawer]"));
      return;
    }
    const answer = target.closest("[data-answer]");
    if (answer) {
      this.querySelector("#order").close(answer.dataset.answer);
      return;
    }
    const yes = target.closest(".verdicts .yes");
    // `detail` counts the presses of a pointer; it is 0 when the click comes from arrow
    // keys moving between the two radio buttons, which must not submit.
    if (yes && target.matches("input") && event.detail > 0) {
      if (this.painted && !this.busy) this.chooseConsistent();
      return;
    }
    if (target.closest("label, button, a, input")) return;
    const unit = target.closest("[data-unit]");
    if (!unit || !this.painted || this.busy) return;
    // Selecting text is not a click on the unit.
    if (!getSelection().isCollapsed && getSelection().containsNode(unit, true)) return;
    this.toggle(unit.dataset.unit);
  }

  // --- sending --------------------------------------------------------------------

  chooseConsistent() {
    this.form.querySelector('input[name="verdict"][value="1"]').checked = true;
    this.unmarkCurrent();
    this.showMarks();
    if (this.form.classList.contains("asks-order") && !this.orderConfirmed) {
      this.querySelector("#order").showModal();
      return;
    }
    this.send();
  }

  onOrderAnswered(event) {
    // The event comes a task after the sheet closed: fast hands may have asked again.
    if (event.target.open) return;
    if (event.target.returnValue === "yes") {
      const field = document.createElement("input");
      field.type = "hidden";
      field.name = "order_confirmed";
      field.value = "1";
      this.form.append(field);
      this.orderConfirmed = true;
      this.send();
    } else this.takeBack();
    event.target.returnValue = "";
  }

  send() {
    if (this.busy || !this.painted) return;
    this.form.requestSubmit(this.form.querySelector("button.submit"));
  }

  onSubmit(event) {
    if (this.busy || !this.painted) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    const spent = (performance.now() - this.painted) / 1000 - this.secondsHidden;
    this.form.elements.namedItem("seconds").value = Math.max(0, spent).toFixed(2);
  }

  onRequest(event) {
    if (!event.target.closest("form.stage")) return;
    this.setBusy(true);
    for (const sheet of this.querySelectorAll(":popover-open")) sheet.hidePopover();
  }

  setBusy(busy) {
    this.busy = busy;
    this.form?.classList.toggle("sending", busy);
  }

  onRefused(event) {
    this.setBusy(false);
    const { status } = event.detail.xhr;
    toast(
      status === 403
        ? "You may not judge here, or you signed out in another tab. Sign in there and submit again: your decision is still here."
        : `The server could not take this (${status}). Your decision is still here; submit again.`,
    );
  }

  /** Keep the decision and send it again: the token makes a second arrival harmless. */
  onLost(event) {
    this.setBusy(false);
    if (event.detail.elt !== this.form) {
      toast("No connection, so this was not done. Try again in a moment.", { seconds: 8 });
      return;
    }
    if (!this.lost?.isConnected) {
      this.lost = toast("No connection. Your decision is kept here and sent again by itself.");
    }
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.isConnected && this.send(), RETRY_SECONDS * 1000);
  }

  /** Keep the pair while somebody works on it, and no longer. */
  async extendLease() {
    if (!this.isActive || document.hidden || this.busy) return;
    this.isActive = false;
    const fields = new FormData(this.form);
    const body = new URLSearchParams();
    for (const name of ["slot", "token"]) body.set(name, fields.get(name));
    body.set("csrfmiddlewaretoken", csrfToken() || fields.get("csrfmiddlewaretoken"));
    try {
      const answer = await fetch(this.form.dataset.extend, { method: "POST", body });
      if (answer.status === 409 && this.isConnected) {
        clearInterval(this.extending);
        toast("This pair has passed on to someone else. You may still decide; it would be kept as an extra.", {
          level: "warning",
        });
      }
    } catch {
      // Offline: the next deed says so, and a late judgment is kept all the same.
    }
  }

  onVisibility() {
    if (document.hidden) this.hiddenSince = performance.now();
    else if (this.hiddenSince && this.painted) {
      this.secondsHidden += (performance.now() - this.hiddenSince) / 1000;
      this.hiddenSince = 0;
    }
  }

  async openDrawer(link) {
    const drawer = this.querySelector("#drawer");
    const address = new URL(link.href);
    if (drawer.dataset.shows !== address.pathname) {
      try {
        const answer = await fetch(address.pathname, { headers: { "HX-Request": "true" } });
        if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
        // The same server renders this fragment; it carries no script, and the policy
        // of the page would not run one.
        drawer.innerHTML = await answer.text();
        drawer.dataset.shows = address.pathname;
      } catch {
        toast("This could not be loaded. Try again in a moment.", { seconds: 6 });
        return;
      }
    }
    drawer.showPopover();
    drawer.querySelector("button")?.focus();
    if (address.hash) drawer.querySelector(address.hash)?.scrollIntoView({ block: "start" });
  }
}

customElements.define("judge-stage", JudgeStage);
