// The whole task by keyboard: one turn is current, keys change its form, a decision
// moves to the next. Each turn is a plain form of its own and works without this module.
// The guards are those of the Judge page: nothing counts before the page is painted, keys
// are dead while typing and in sheets, one submission per turn at a time.

import { csrfToken, toast } from "./frame.js";
import { PairForm } from "./pair-form.js";
import { fill, gettext } from "./words.js";

const LEASES_PER_POST = 8;
const TYPING = 'textarea, select, [contenteditable], input:not([type="checkbox"], [type="radio"])';

class TaskStage extends HTMLElement {
  connectedCallback() {
    this.forms = new WeakMap();
    this.seconds = new WeakMap();
    this.sending = new Set();
    this.stops = new AbortController();
    const listen = (target, name, handler, options = {}) =>
      target.addEventListener(name, handler, { signal: this.stops.signal, ...options });
    listen(document, "keydown", (event) => this.onKey(event));
    listen(this, "change", (event) => this.pairFormOf(event.target)?.onChange(event));
    listen(this, "click", (event) => this.onClick(event));
    listen(this, "focusin", (event) => this.onFocus(event));
    listen(this, "submit", (event) => this.onSubmit(event), { capture: true });
    listen(this, "htmx:beforeRequest", (event) => this.setSending(event, true));
    listen(this, "htmx:afterRequest", (event) => this.setSending(event, false));
    listen(this, "htmx:responseError", (event) => this.onRefused(event));
    for (const name of ["htmx:sendError", "htmx:timeout"]) listen(this, name, () => this.onLost());
    // Not afterSwap: htmx then still gives the new section the old one's classes.
    listen(document, "htmx:afterSettle", (event) => this.onSwapped(event));
    listen(window, "pagehide", () => this.leave());
    listen(window, "pageshow", (event) => event.persisted && location.reload());
    listen(document, "visibilitychange", () => this.keepTime());
    for (const name of ["keydown", "input", "pointerdown", "scroll"]) {
      listen(document, name, () => (this.isActive = true), { passive: true, capture: true });
    }
    const third = (Number(this.dataset.leaseSeconds) * 1000) / 3;
    this.extending = setInterval(() => this.extendLeases(), Math.max(third, 5000));
    // Two frames: the first is about to be painted, the second follows that paint.
    requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        this.dataset.painted = "";
        const target = location.hash && this.yours.find((one) => `#${one.id}` === location.hash);
        this.goTo(target || this.yours[0]);
      }),
    );
  }

  disconnectedCallback() {
    this.stops.abort();
    clearInterval(this.extending);
  }

  // --- the current turn ------------------------------------------------------------

  get yours() {
    return [...this.querySelectorAll('.task-turn[data-state="yours"]')];
  }

  pairFormOf(element) {
    const form = element?.closest?.("form.stage");
    if (!form) return null;
    if (!this.forms.has(form)) this.forms.set(form, new PairForm(form));
    return this.forms.get(form);
  }

  get pair() {
    return this.pairFormOf(this.turn?.querySelector("form.stage"));
  }

  goTo(turn, { focus = true } = {}) {
    this.classList.toggle("all-judged", this.yours.length === 0);
    if (!turn) {
      if (this.yours.length === 0) this.querySelector("#task-end a")?.focus();
      return;
    }
    if (turn !== this.turn) {
      this.keepTime();
      this.turn?.classList.remove("current-turn");
      this.turn?.querySelectorAll(".current").forEach((one) => one.classList.remove("current"));
      this.turn = turn;
      turn.classList.add("current-turn");
    }
    if (focus) {
      turn.focus({ preventScroll: true });
      turn.scrollIntoView({ block: "start" });
    }
  }

  onFocus(event) {
    const turn = event.target.closest('.task-turn[data-state="yours"]');
    if (turn && turn !== this.turn) this.goTo(turn, { focus: false });
  }

  /** Add the time that the current turn was on screen to its earlier time. */
  keepTime() {
    const now = performance.now();
    const form = this.turn?.querySelector("form.stage");
    if (form && this.since) {
      const before = this.seconds.get(form) ?? Number(form.elements.namedItem("seconds").value);
      this.seconds.set(form, before + (now - this.since) / 1000);
    }
    this.since = document.hidden ? 0 : now;
  }

  // --- keys and clicks -------------------------------------------------------------

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target } = event;
    if (target.closest?.(TYPING)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (document.querySelector(":popover-open, dialog[open]")) {
      if (key === "?") this.querySelector("#keys:popover-open")?.hidePopover();
      return;
    }
    if ((key === "Enter" || key === " ") && target.closest?.("button, a, summary")) return;
    const decides = /^[0-9]$/.test(key) || key === "Enter";
    const isDead = !("painted" in this.dataset) || this.sending.size > 0 || this.turn?.isConnected === false;
    if (isDead || (event.repeat && key !== "j" && key !== "k")) {
      if (decides) event.preventDefault();
      return;
    }
    if (this.perform(key)) event.preventDefault();
  }

  perform(key) {
    const { pair } = this;
    if (key === "n" || key === "p") this.goBy(key === "n" ? 1 : -1);
    else if (key === "u") this.undo();
    else if (key === "?") this.querySelector("#keys").showPopover();
    else if (key === "d") this.classList.toggle("no-differences");
    else if (key === "t") this.classList.toggle("folded");
    else if (key === "g") this.querySelector("a[hx-target='#drawer']")?.click();
    else if (!pair) return false;
    else if (key === "0") pair.chooseNot();
    else if (/^[1-9]$/.test(key) && pair.verdict === "0") pair.toggleReason(Number(key) - 1);
    else if (key === "1") this.sendConsistent();
    else if (key === "Enter") {
      if (pair.verdict === "1") this.sendConsistent();
      else if (pair.verdict) this.send();
    } else if (key === "Escape") pair.takeBack();
    else if (key === "j") pair.step(1);
    else if (key === "k") pair.step(-1);
    else if (key === "x") pair.toggleCurrent();
    else return false;
    return true;
  }

  goBy(by) {
    const all = this.yours;
    const at = all.indexOf(this.turn);
    this.goTo(all[Math.max(0, Math.min(at + by, all.length - 1))]);
  }

  onClick(event) {
    const { target } = event;
    if (target.closest("label, button, a, input, summary")) return;
    const unit = target.closest("form.stage [data-unit]");
    if (!unit || !("painted" in this.dataset)) return;
    // Selecting text is not a click on the unit.
    if (!getSelection().isCollapsed && getSelection().containsNode(unit, true)) return;
    this.goTo(unit.closest(".task-turn"), { focus: false });
    this.pairFormOf(unit).toggle(unit.dataset.unit);
  }

  undo() {
    const buttons = [...this.querySelectorAll("[data-undo]")];
    buttons.sort((one, other) => Number(one.dataset.undo) - Number(other.dataset.undo));
    buttons.at(-1)?.click();
  }

  // --- sending ---------------------------------------------------------------------

  sendConsistent() {
    this.pair.chooseConsistent();
    // The server asked about the step order: a second 1 is the answer.
    const box = this.turn.querySelector('input[name="order_confirmed"]');
    if (box) box.checked = true;
    this.send();
  }

  send() {
    const form = this.turn.querySelector("form.stage");
    form.requestSubmit(form.querySelector("button.submit"));
  }

  onSubmit(event) {
    const form = event.target;
    if (!("painted" in this.dataset) || this.sending.has(form)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    if (!form.matches("form.stage")) return;
    this.goTo(form.closest(".task-turn"), { focus: false });
    this.keepTime();
    form.elements.namedItem("seconds").value = (this.seconds.get(form) ?? 0).toFixed(2);
  }

  setSending(event, isSending) {
    // After a swap the event comes from an ancestor of the form that is gone.
    const form = event.detail.requestConfig.elt.closest("form");
    if (!form) return;
    form.classList.toggle("sending", isSending);
    if (isSending) this.sending.add(form);
    else this.sending.delete(form);
  }

  onSwapped(event) {
    const { target } = event.detail;
    if (target.id === "drawer") {
      target.showPopover();
      return;
    }
    // The section was replaced: by a judgment, an undone pair, or a question.
    const swapped = [...this.querySelectorAll(".task-turn")].find((one) => one.id === target.id);
    if (!swapped) return;
    this.since = 0;
    this.turn = null;
    if (swapped.dataset.state === "yours") this.goTo(swapped);
    else this.goTo(this.yours.find((one) => follows(one, swapped)) ?? this.yours[0]);
  }

  onRefused(event) {
    const { status } = event.detail.xhr;
    toast(
      status === 403
        ? gettext("You may not judge here, or you signed out in another tab. Sign in there and submit again: your decision is still here.")
        : fill(gettext("The server could not take this (%(status)s). Your decision is still here; submit again."), { status }),
    );
  }

  onLost() {
    toast(gettext("No connection, so this was not recorded. Your decision is still here; submit again in a moment."));
  }

  // --- leases ----------------------------------------------------------------------

  leases() {
    return this.yours.map((turn) => new FormData(turn.querySelector("form.stage")));
  }

  async extendLeases() {
    if (!this.isActive || document.hidden) return;
    this.isActive = false;
    for (const fields of this.leases()) {
      const body = new URLSearchParams({ csrfmiddlewaretoken: csrfToken() });
      for (const name of ["slot", "token"]) body.set(name, fields.get(name));
      try {
        const answer = await fetch(this.dataset.extend, { method: "POST", body });
        if (answer.status === 409) {
          toast(gettext("A turn of this task has passed on to someone else. You may still judge it; it would be kept as an extra."), {
            level: "warning",
          });
        }
      } catch {
        // Offline: the next deed reports it.
      }
    }
  }

  /** Return the unjudged slots. After a reload their `since` is newer, and this has no effect. */
  leave() {
    const leases = this.leases();
    for (let at = 0; at < leases.length; at += LEASES_PER_POST) {
      const body = new URLSearchParams({ csrfmiddlewaretoken: csrfToken() });
      for (const fields of leases.slice(at, at + LEASES_PER_POST)) {
        for (const name of ["slot", "token", "since"]) body.append(name, fields.get(name));
      }
      navigator.sendBeacon(this.dataset.leave, body);
    }
  }
}

function follows(one, other) {
  return Boolean(other.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING);
}

customElements.define("task-stage", TaskStage);
