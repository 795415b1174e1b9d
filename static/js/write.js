// The editor of a draft. The form is the truth: its raw texts are what is posted and kept.
// This module posts it while the person types, puts the server's checks where they belong,
// keeps a copy on this device until the server has it, and lets the form's buttons change
// the page without leaving it, so that focus and place stay. Blocks: write-blocks.js.

import { toast } from "./frame.js";
import { fill, gettext } from "./words.js";
import { onBlockClick, onBlockDrag, onBlockInput, onBlockKey, writeBlocks } from "./write-blocks.js";

const WAIT = 300;
const RETRY = 5000;
const PLACES = /^(check|result|reference-check|context-check|blocks)-|^(save-state|version|conflict)$/;

class DraftEditor extends HTMLElement {
  connectedCallback() {
    if (this.edits) return;
    this.edits = new Map(); // turn → number of edits, to recognize late answers
    this.redraw = new Set(); // turns whose blocks must be rendered again
    this.changes = 0;
    this.saved = 0;
    this.kept = `concord-draft-${this.dataset.draft}`;

    this.addEventListener("input", (event) => this.onInput(event));
    this.addEventListener("change", (event) => this.onChange(event));
    this.addEventListener("click", (event) => this.onClick(event));
    this.addEventListener("keydown", (event) => this.onKey(event));
    for (const name of ["dragstart", "dragover", "drop", "dragend"]) {
      this.addEventListener(name, (event) => onBlockDrag(event, (turn) => this.blocksChanged(turn)));
    }
    this.addEventListener("submit", (event) => this.onSubmit(event));
    // Replace nothing while an input method is composing a word.
    this.addEventListener("compositionstart", () => (this.composing = true));
    this.addEventListener("compositionend", () => (this.composing = false));
    addEventListener("online", () => this.unsaved && this.save());
    addEventListener("beforeunload", (event) => {
      if (this.unsaved && !this.isKept) event.preventDefault();
    });
    this.offerKept();
    this.dataset.ready = "";
  }

  get form() {
    return this.querySelector("form.editor");
  }

  get unsaved() {
    return this.changes > this.saved;
  }

  get inConflict() {
    return this.querySelector("#conflict .conflict") !== null;
  }

  // --- what the person does ---------------------------------------------------------

  onInput(event) {
    if (!this.form.contains(event.target) || event.target.closest("#conflict")) return;
    const turn = event.target.closest(".turn-edit");
    if (onBlockInput(event.target)) {
      this.blocksChanged(turn);
      return;
    }
    if (event.target.name === "turn_response") {
      turn.querySelector("[name=turn_blocks]").value = "";
      this.touch(turn, true);
    }
    if (event.target.name === "turn_kind") this.touch(turn, true);
    this.changed();
  }

  onChange(event) {
    // Another action name needs another form, which only the server can render.
    if (event.target.matches("[data-action-name]")) {
      const turn = event.target.closest(".turn-edit");
      this.touch(turn, true);
      this.changed(0);
    }
  }

  onClick(event) {
    const goto = event.target.closest("[data-goto]");
    if (goto) {
      const raw = goto.closest(".turn-edit").querySelector("[name=turn_response]");
      const place = Number(goto.dataset.goto);
      raw.focus();
      raw.setSelectionRange(place, Math.min(place + 1, raw.value.length));
      return;
    }
    const turn = event.target.closest(".turn-edit");
    if (!turn) return;
    const done = onBlockClick(event.target, turn);
    if (done) this.blocksChanged(turn, done === "redraw");
  }

  onKey(event) {
    if (event.key === "s" && (event.ctrlKey || event.metaKey) && !event.altKey) {
      event.preventDefault();
      this.changed(0);
      return;
    }
    const turn = event.target.closest(".turn-edit");
    if (turn && onBlockKey(event)) {
      event.preventDefault();
      this.blocksChanged(turn);
    }
  }

  /** From now on the blocks of a turn count; its raw text waits for the server. */
  blocksChanged(turn, redraw = false) {
    turn.querySelector("[name=turn_blocks]").value = writeBlocks(turn);
    turn.querySelector("[name=turn_response]").readOnly = true;
    this.touch(turn, redraw);
    this.changed(redraw ? 0 : WAIT);
  }

  touch(turn, redraw) {
    const number = turn.dataset.turn;
    this.edits.set(number, (this.edits.get(number) ?? 0) + 1);
    if (redraw) this.redraw.add(number);
  }

  changed(wait = WAIT) {
    this.changes += 1;
    this.keep();
    if (this.inConflict) return;
    this.showState(gettext("Typing …"), "live");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), wait);
  }

  // --- saving -----------------------------------------------------------------------

  /** Post the form; one request at a time, the newest state last. */
  async save() {
    clearTimeout(this.timer);
    if (this.composing) {
      this.timer = setTimeout(() => this.save(), WAIT);
      return;
    }
    if (this.saving) {
      this.again = true;
      return this.saving;
    }
    this.saving = this.post();
    await this.saving;
    this.saving = null;
    if (this.again) {
      this.again = false;
      await this.save();
    }
  }

  async post() {
    if (this.inConflict) return;
    const upTo = this.changes;
    const edits = new Map(this.edits);
    const redraw = [...this.redraw];
    const body = new FormData(this.form);
    for (const number of redraw) body.append("redraw", number);
    const answer = await this.fetch(this.dataset.save, body);
    if (!answer) return;
    for (const number of redraw) {
      const isDrawn = !this.composing && this.edits.get(number) === edits.get(number);
      if (isDrawn) this.redraw.delete(number);
    }
    this.showAnswer(answer, edits);
    if (this.inConflict) {
      this.querySelector("#conflict").scrollIntoView({ block: "nearest" });
      return;
    }
    this.saved = upTo;
    if (this.unsaved) this.showState(gettext("Typing …"), "live");
    else this.forget();
  }

  /** Return the answer's document, or null after saying why there is none. */
  async fetch(address, body) {
    try {
      const response = await fetch(address, { method: "POST", body, signal: AbortSignal.timeout(20000) });
      if (new URL(response.url).pathname.startsWith("/accounts/login/")) {
        this.failed(gettext("Your session has ended. Sign in again in another tab, then go on here."));
      } else if (response.ok || [409, 422].includes(response.status)) {
        return new DOMParser().parseFromString(await response.text(), "text/html");
      } else {
        const text = gettext("The draft could not be saved (%(status)s). What you typed is kept on this device.");
        this.failed(fill(text, { status: response.status }));
      }
    } catch {
      this.failed(gettext("No connection: the draft is kept on this device and is sent when the server can be reached."));
    }
    return null;
  }

  failed(text) {
    this.showState(gettext("Not saved"), "failed");
    toast(text, { seconds: 8 });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), RETRY);
  }

  showState(text, level) {
    const state = document.createElement("span");
    state.className = `state ${level}`;
    state.textContent = text;
    this.querySelector("#save-state").replaceChildren(state);
  }

  /** Insert the parts of an answer; fields edited since stay unchanged. */
  showAnswer(answer, edits) {
    const focus = this.whereFocus();
    for (const part of answer.querySelectorAll("[id]")) {
      if (!PLACES.test(part.id)) continue;
      const place = this.querySelector(`#${part.id}`);
      const [, number] = part.id.match(/^blocks-(\d+)$/) ?? [];
      const isOld = number && (this.composing || this.edits.get(number) !== edits.get(number));
      if (!place || isOld) continue;
      if (place.outerHTML !== part.outerHTML) place.replaceWith(document.importNode(part, true));
    }
    const texts = JSON.parse(answer.querySelector("#raw-texts")?.textContent ?? "{}");
    for (const [number, text] of Object.entries(texts)) {
      if (this.edits.get(number) !== edits.get(number)) continue;
      const turn = this.querySelector(`#turn-${number}`);
      const raw = turn.querySelector("[name=turn_response]");
      raw.value = text;
      raw.readOnly = false;
      turn.querySelector("[name=turn_blocks]").value = "";
    }
    this.restoreFocus(focus);
  }

  // --- the form's buttons ------------------------------------------------------------

  async onSubmit(event) {
    if (event.target !== this.form || event.defaultPrevented) return;
    event.preventDefault();
    if (this.isBusy) return; // ignore the second press
    this.isBusy = true;
    try {
      await this.press(event.submitter);
    } finally {
      this.isBusy = false;
    }
  }

  async press(button) {
    clearTimeout(this.timer);
    const deed = button?.name === "do" ? button.value : "";
    await this.saving;
    clearTimeout(this.timer);
    if (deed === "submit" || button?.hasAttribute("formaction")) {
      this.leave(button);
      return;
    }
    const focus = this.whereFocus();
    const changes = this.changes;
    const body = new FormData(this.form);
    body.set("do", deed || "save");
    const answer = await this.fetch(this.form.action, body);
    const editor = answer?.querySelector("draft-editor");
    if (!editor) return;
    if (this.changes !== changes) {
      // Text typed before the answer arrived: keep it and do nothing else.
      this.save();
      return;
    }
    this.redrawAll(editor);
    for (const line of answer.querySelectorAll(".messages .message")) {
      toast(line.textContent.trim(), { level: line.classList[1] ?? "info", seconds: 8 });
    }
    if (this.inConflict) return;
    this.saved = this.changes;
    this.redraw.clear();
    this.forget();
    if (!this.focusAfter(deed)) this.restoreFocus(focus);
  }

  /** Insert the server's rendering; a proposal in progress stays. */
  redrawAll(editor) {
    const keyOf = (place) => place.closest(".turn-edit").querySelector("[name=turn_key]").value;
    const proposals = [...this.querySelectorAll(".propose.card")].map((one) => [keyOf(one), one]);
    this.replaceChildren(...document.importNode(editor, true).childNodes);
    globalThis.htmx?.process(this);
    for (const [key, proposal] of proposals) {
      const place = this.querySelector(`#${proposal.id}`);
      if (!place || keyOf(place) !== key) continue;
      place.replaceWith(proposal);
      globalThis.htmx?.process(proposal);
    }
  }

  /** Post the form and leave the page. */
  leave(button) {
    if (button?.name) {
      const field = document.createElement("input");
      Object.assign(field, { type: "hidden", name: button.name, value: button.value });
      this.form.append(field);
    }
    if (button?.hasAttribute("formaction")) this.form.action = button.formAction;
    this.saved = this.changes;
    // The copy stays on this device until a page shows that the server has the text.
    HTMLFormElement.prototype.submit.call(this.form);
  }

  /** Move to the part that a button inserted. */
  focusAfter(deed) {
    const [name, number, place] = deed.split(":");
    const next = Number(number) + 1;
    const targets = {
      "add-user": "[name=turn_text]",
      "add-observation": "[name=turn_text]",
      "add-context": "[name=new_title]",
      "add-reference": `#turn-${number} [name=reference_text]`,
      "remove-reference": `#turn-${number} [value="add-reference:${number}"]`,
      "remove-turn": `#turn-${Math.max(1, Number(number) - 1)} [name=turn_text]`,
      "raise-turn": `#turn-${Number(number) - 1} [name=turn_text]`,
      result: `#input-${next}`,
      fetch: `#input-${next}`,
      dismiss: `#response-${number}`,
      recall: `#response-${number}`,
      merge: "#scenario",
      keep: "#scenario",
      "advice-read": "#scenario",
    };
    const target = targets[name] && [...this.querySelectorAll(targets[name])].at(-1);
    if (!target || (name === "result" && place === "run" && !target.value)) return false;
    target.focus();
    return true;
  }

  // --- focus --------------------------------------------------------------------------

  /** Describe the focus in a form that survives a replacement of the elements. */
  whereFocus() {
    const field = document.activeElement;
    if (!this.contains(field)) return null;
    const turn = field.closest(".turn-edit");
    const key = turn?.querySelector("[name=turn_key]").value;
    let selector = "";
    if (field.id) selector = `#${CSS.escape(field.id)}`;
    else if (field.dataset.path) selector = `[data-path="${field.dataset.path}"]`;
    else if (field.name) selector = `[name="${field.name}"][value="${CSS.escape(field.value)}"]`;
    const isText = "selectionStart" in field && field.type !== "number";
    return {
      field,
      key,
      selector,
      selection: isText ? [field.selectionStart, field.selectionEnd] : null,
    };
  }

  restoreFocus(was) {
    if (!was || was.field.isConnected || !was.selector) return;
    const keys = [...this.querySelectorAll("[name=turn_key]")];
    const turn = keys.find((one) => one.value === was.key)?.closest(".turn-edit");
    const field = (turn ?? this).querySelector(was.selector);
    if (!field) return;
    field.focus({ preventScroll: true });
    try {
      if (was.selection?.[0] != null) field.setSelectionRange(...was.selection);
    } catch {
      // A field without a selection, such as a number, only has the focus.
    }
  }

  // --- a copy on this device ------------------------------------------------------------

  keep() {
    const entries = [...new FormData(this.form)].filter(
      ([name, value]) => name !== "csrfmiddlewaretoken" && typeof value === "string",
    );
    try {
      localStorage.setItem(this.kept, JSON.stringify({ at: Date.now(), entries }));
      this.isKept = true;
    } catch {
      this.isKept = false; // storage full or forbidden: leaving the page then asks first
    }
  }

  forget() {
    try {
      localStorage.removeItem(this.kept);
    } catch {
      // Nothing could be stored, so there is nothing to delete.
    }
  }

  /** Offer text typed here that never reached the server; restore it only on request. */
  offerKept() {
    let copy = null;
    try {
      copy = JSON.parse(localStorage.getItem(this.kept));
    } catch {
      return;
    }
    if (!copy || !Array.isArray(copy.entries) || this.inConflict) return;
    const shown = new FormData(this.form);
    const texts = (entries) =>
      JSON.stringify(
        entries.filter(([name]) => /^(turn_|new_|reference_text|scenario|situation|context)/.test(name)),
      );
    if (texts(copy.entries) === texts([...shown])) {
      this.forget();
      return;
    }
    const words = document.createElement("p");
    words.textContent = fill(
      gettext("What you typed here at %(time)s did not reach the server and is kept on this device."),
      { time: new Date(copy.at).toLocaleString(document.documentElement.lang) },
    );
    const acts = document.createElement("div");
    acts.className = "acts";
    const box = this.querySelector("#kept");
    const button = (text, style, deed) => {
      const one = document.createElement("button");
      one.type = "button";
      one.className = style;
      one.textContent = text;
      one.addEventListener("click", deed);
      acts.append(one);
    };
    button(gettext("Bring it back"), "btn primary", () => this.bringBack(copy));
    button(gettext("Throw it away"), "btn quiet", () => {
      this.forget();
      box.hidden = true;
    });
    box.replaceChildren(words, acts);
    box.hidden = false;
  }

  async bringBack(copy) {
    const body = new FormData();
    for (const [name, value] of copy.entries) body.append(name, value);
    body.set("csrfmiddlewaretoken", this.querySelector("[name=csrfmiddlewaretoken]").value);
    body.set("do", "save");
    const answer = await this.fetch(this.form.action, body);
    const editor = answer?.querySelector("draft-editor");
    if (!editor) return;
    this.redrawAll(editor);
    if (!this.inConflict) this.forget();
    this.querySelector("#scenario").focus();
  }
}

customElements.define("draft-editor", DraftEditor);
