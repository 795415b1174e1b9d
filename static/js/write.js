// The Write page: says at once whether what is typed is on the server, and puts the
// grammar's tags in by button. The form itself saves through htmx (see draft.html).

import { toast } from "./frame.js";

const PIECES = {
  Thinking: ["<<think>>", "\n<</think>>"],
  Plan: ["\nPlan:\n1. ", "\n2. "],
  Answer: ["<</think>>", ""],
};

class DraftEditor extends HTMLElement {
  connectedCallback() {
    this.form = this.querySelector("form.editor");
    this.unsaved = 0;
    this.actions = JSON.parse(document.getElementById("draft-actions").textContent);
    for (const place of this.querySelectorAll(".inserts")) this.fillInserts(place);

    this.form.addEventListener("input", () => this.onTyped());
    this.form.addEventListener("htmx:afterRequest", (event) => this.onAnswer(event));
    // The buttons post the whole form and leave: nothing is unsaved then.
    this.form.addEventListener("submit", () => (this.unsaved = 0));
    addEventListener("beforeunload", (event) => {
      if (this.unsaved) event.preventDefault();
    });
  }

  onTyped() {
    this.unsaved += 1;
    this.showState("Typing …", "live");
  }

  onAnswer(event) {
    if (event.target !== this.form) return;
    if (event.detail.successful) {
      this.unsaved = this.querySelector("#conflict .message") ? 1 : 0;
      return;
    }
    const status = event.detail.xhr.status;
    this.showState("Not saved", "failed");
    toast(
      status
        ? `The draft could not be saved (${status}). What you typed is still here.`
        : "No connection: the draft is not saved. What you typed is still here and is sent with the next key.",
      { seconds: 8 },
    );
  }

  showState(text, level) {
    const place = this.querySelector("#save-state");
    const state = document.createElement("span");
    state.className = `state ${level}`;
    state.textContent = text;
    place.replaceChildren(state);
  }

  fillInserts(place) {
    const field = document.getElementById(place.dataset.for);
    const words = document.createElement("span");
    words.textContent = "Insert";
    place.append(words);
    for (const [name, [before, after]] of Object.entries(PIECES)) {
      place.append(this.button(name, () => insert(field, before, after)));
    }
    for (const action of this.actions.slice(0, 8)) {
      place.append(
        this.button(action.name, () => {
          const parameters = Object.fromEntries(action.parameters.map((name) => [name, ""]));
          const call = JSON.stringify({ name: action.name, parameters });
          insert(field, `<<action>>${call}<</action>>`, "");
        }),
      );
    }
  }

  button(name, deed) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "chip";
    button.textContent = name;
    button.addEventListener("click", deed);
    return button;
  }
}

/** Put text around the selection, as if typed, so that undo works. */
function insert(field, before, after) {
  field.focus();
  const { selectionStart: start, selectionEnd: end, value } = field;
  const text = before + value.slice(start, end) + after;
  if (!document.execCommand("insertText", false, text)) field.setRangeText(text, start, end, "end");
  const caret = start + before.length + (end - start);
  field.setSelectionRange(caret, caret);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

customElements.define("draft-editor", DraftEditor);
