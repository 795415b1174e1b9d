// The Judge page's keyboard. The page is a plain form and works without this module: the
// verdict is two radio buttons, each unit and each reason a check box. Keys and
// clicks change those fields (pair-form.js); judge-desk.js sends them and gets the next
// pair.
//
// Guards: nothing counts before the pair is painted; keys are dead while typing, in dialogs
// and drawers, with modifier keys and on key repeat; a pair is decided once.

import { toast } from "./frame.js";
import { desk } from "./judge-desk.js";
import { PairForm } from "./pair-form.js";
import { gettext } from "./words.js";

const TYPING = 'textarea, select, [contenteditable], input:not([type="checkbox"], [type="radio"])';

class JudgeStage extends HTMLElement {
  /** Read the server's data on the pair; a stage fetched ahead is not in the document yet. */
  prepare() {
    if (this.isPrepared) return;
    this.isPrepared = true;
    this.form = this.querySelector("form.stage");
    if (!this.form) return;
    const { slot, token, since } = Object.fromEntries(new FormData(this.form));
    const seconds = Number(this.form.dataset.leaseLeft);
    this.lease = { slot, token, since, seconds, endsAt: Date.now() + seconds * 1000 };
    this.pair = new PairForm(this.form);
    this.seconds = Number(this.form.elements.namedItem("seconds").value) || 0;
  }

  connectedCallback() {
    this.prepare();
    desk.arrived(this);
    if (!this.form) return;
    this.painted = 0;
    this.busy = false;
    this.stops = new AbortController();
    const listen = (target, name, handler, options = {}) =>
      target.addEventListener(name, handler, { signal: this.stops.signal, ...options });

    listen(document, "keydown", (event) => this.onKey(event));
    listen(this.form, "change", (event) => this.pair.onChange(event));
    listen(this, "click", (event) => this.onClick(event));
    listen(this.form, "submit", (event) => this.onSubmit(event));
    listen(this.querySelector("#order"), "close", (event) => this.onOrderAnswered(event));
    listen(document, "visibilitychange", () => this.onVisibility());

    this.hiddenSince = 0;
    this.isActive = false;
    for (const name of ["keydown", "input", "pointerdown", "pointermove", "scroll"]) {
      listen(document, name, () => this.onActivity(), { passive: true, capture: true });
    }
    this.arrive();
    // Two frames: the first is about to be painted, the second follows that paint.
    requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        if (!this.isConnected) return;
        this.painted = performance.now();
        this.dataset.painted = "";
        this.dispatchEvent(new CustomEvent("judge:painted", { bubbles: true }));
      }),
    );
  }

  disconnectedCallback() {
    this.stops?.abort();
    if (!this.form) return;
    this.seconds = this.secondsSpent;
    this.painted = 0;
    delete this.dataset.painted;
    for (const sheet of this.querySelectorAll("dialog[open]")) sheet.close();
  }

  /** Begin at the top of the page, with the focus on the first difference or the heading. */
  arrive() {
    if (!this.pair.goToFirst({ scrolls: false })) this.form.querySelector("h1").focus({ preventScroll: true });
  }

  get secondsSpent() {
    const hidden = this.hiddenSince ? performance.now() - this.hiddenSince : 0;
    return this.painted ? Math.max(0, this.seconds + (performance.now() - this.painted - hidden) / 1000) : this.seconds;
  }

  leaseFields() {
    const { slot, token } = this.lease;
    return { slot, token, csrfmiddlewaretoken: this.form.elements.namedItem("csrfmiddlewaretoken").value };
  }

  onActivity() {
    this.isActive = true;
    desk.wakeUp();
  }

  // --- keys and clicks ------------------------------------------------------------

  onKey(event) {
    const { target } = event;
    const isTyping = Boolean(target.closest?.(TYPING));
    if (event.key === "Enter" && isTyping) {
      this.flush(event);
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector(":popover-open, dialog[open]")) {
      if (!isTyping && !event.repeat) this.onSheetKey(event);
      return;
    }
    if (isTyping) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    // A focused button or link keeps its own keys.
    if ((key === "Enter" || key === " ") && target.closest?.("button, a, summary")) return;
    const repeats = key === "j" || key === "k";
    if (!this.painted || this.busy || (event.repeat && !repeats)) {
      if (/^[0-9]$/.test(key) || key === "Enter") event.preventDefault();
      return;
    }
    if (this.perform(key)) event.preventDefault();
  }

  /** Ctrl+Enter submits the text being typed, and nothing else; in a one-line field Enter too. */
  flush(event) {
    const { target } = event;
    const isLine = target.matches("input");
    if (!isLine && !event.ctrlKey && !event.metaKey) return;
    const box = target.closest(".sheet, dialog, form");
    if (!this.contains(target) || event.repeat) {
      if (this.contains(target)) event.preventDefault();
      return;
    }
    event.preventDefault();
    if (box !== this.form) box?.querySelector('button[type="submit"]')?.click();
  }

  perform(key) {
    // A pair that is no longer this person's is read-only.
    if (this.isOver && /^[01xsl]$/.test(key)) return true;
    if (this.isOver && key === "Enter") {
      desk.goOn();
      desk.work();
      return true;
    }
    const { pair } = this;
    if (key === "0") pair.chooseNot();
    else if (/^[1-9]$/.test(key)) {
      if (pair.verdict === "0") pair.toggleReason(Number(key) - 1);
      else if (key === "1") this.chooseConsistent();
      else return false;
    } else if (key === "Enter") {
      if (!pair.verdict) return true;
      if (pair.verdict === "1") this.chooseConsistent();
      else this.send();
    } else if (key === "Escape") pair.takeBack();
    else if (key === "j") pair.step(1);
    else if (key === "k") pair.step(-1);
    else if (key === "x") pair.toggleCurrent();
    else if (key === "s") this.open("skip");
    else if (key === "l") this.form.querySelector("button.later").click();
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

  /** In an open sheet only its own keys work: a digit picks a skip reason, Y answers. */
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

  onClick(event) {
    const { target } = event;
    if (target.closest("button.go-on")) {
      desk.goOn();
      desk.work();
      return;
    }
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
    if (!unit || !this.painted || this.busy || this.isOver) return;
    // Selecting text is not a click on the unit.
    if (!getSelection().isCollapsed && getSelection().containsNode(unit, true)) return;
    this.pair.toggle(unit.dataset.unit);
  }

  // --- sending --------------------------------------------------------------------

  chooseConsistent() {
    this.pair.chooseConsistent();
    if (this.form.classList.contains("asks-order") && !this.orderConfirmed) this.askOrder();
    else this.send();
  }

  askOrder() {
    const sheet = this.querySelector("#order");
    if (!sheet.open) sheet.showModal();
  }

  onOrderAnswered(event) {
    // The event comes one task after the sheet closed: the person may have asked again.
    if (event.target.open) return;
    if (event.target.returnValue === "yes") {
      const field = document.createElement("input");
      field.type = "hidden";
      field.name = "order_confirmed";
      field.value = "1";
      this.form.append(field);
      this.orderConfirmed = true;
      this.send();
    } else this.pair.takeBack();
    event.target.returnValue = "";
  }

  send() {
    if (this.busy || !this.painted) return;
    this.form.requestSubmit(this.form.querySelector("button.submit"));
  }

  onSubmit(event) {
    event.preventDefault();
    if (this.busy || !this.painted) return;
    const button = event.submitter;
    if (button?.formMethod === "dialog") return; // templates/_enter.html
    const address = button?.getAttribute("formaction") ?? this.form.action;
    const isDecision = !button?.hasAttribute("formaction");
    const isUndo = Boolean(button?.matches(".undo, .square"));
    if (this.isOver && !isUndo) return;
    if (isDecision && this.pair.lacksReason) {
      this.tell({ level: "error", text: gettext("Mark a unit that differs, or choose a reason.") });
      return;
    }
    this.form.elements.namedItem("seconds").value = this.secondsSpent.toFixed(2);
    const fields = new URLSearchParams(new FormData(this.form, button));
    for (const sheet of this.querySelectorAll(":popover-open")) sheet.hidePopover();
    this.querySelector(".bar > .notice")?.remove();
    if (isUndo) desk.undo(address, fields);
    else desk.perform(address, fields, { isDecision });
  }

  setBusy(busy) {
    this.busy = busy;
    this.form?.classList.toggle("sending", busy);
    this.form?.setAttribute("aria-busy", String(busy));
  }

  /** Say something beside the pair. */
  tell({ text, level }) {
    const bar = this.querySelector(".bar");
    if (!bar) {
      toast(text, { level, seconds: 8 });
      return;
    }
    const box = document.createElement("div");
    box.className = `notice message ${level}`;
    box.setAttribute("role", "status");
    bar.querySelector(":scope > .notice")?.remove();
    bar.prepend(box);
    box.append(text);
    if (this.isOver) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "btn go-on";
      button.append(gettext("Go on"), " ", Object.assign(document.createElement("kbd"), { textContent: "↵" }));
      box.append(" ", button);
    }
    this.form.classList.toggle("is-over", Boolean(this.isOver));
  }

  onVisibility() {
    if (document.hidden) this.hiddenSince = performance.now();
    else if (this.hiddenSince) {
      if (this.painted) this.seconds -= (performance.now() - Math.max(this.hiddenSince, this.painted)) / 1000;
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
        toast(gettext("This could not be loaded. Try again in a moment."), { seconds: 6 });
        return;
      }
    }
    drawer.showPopover();
    drawer.querySelector("button")?.focus();
    if (address.hash) drawer.querySelector(address.hash)?.scrollIntoView({ block: "start" });
  }
}

// A reload may bring another pair; each opens at its top.
history.scrollRestoration = "manual";
customElements.define("judge-stage", JudgeStage);
