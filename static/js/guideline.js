// The guideline: keys meant for a pair must not confirm its reading, and leaving the page must not
// lose an edited text.

import { gettext } from "./words.js";

const SETTLE_MILLISECONDS = 700;

/** The button that says "I have read it": Enter presses it, once the page has settled. */
class GuidelineReading extends HTMLElement {
  connectedCallback() {
    const button = this.querySelector("button");
    button.disabled = true;
    this.waiting = setTimeout(() => {
      button.disabled = false;
      button.focus({ preventScroll: true });
      this.dataset.ready = "";
    }, SETTLE_MILLISECONDS);
  }

  disconnectedCallback() {
    clearTimeout(this.waiting);
  }
}

class GuidelineEditor extends HTMLElement {
  connectedCallback() {
    const form = this.querySelector("form");
    let unsaved = false;
    form.addEventListener("input", () => (unsaved = true));
    form.addEventListener("submit", (event) => {
      if (event.submitter?.formMethod !== "dialog") unsaved = false; // a check sends nothing
    });
    addEventListener("beforeunload", (event) => {
      if (unsaved) event.preventDefault();
    });
    form.addEventListener("htmx:sendError", () => {
      this.querySelector("#preview").textContent = gettext("No connection: no preview now.");
    });
  }
}

customElements.define("guideline-reading", GuidelineReading);
customElements.define("guideline-editor", GuidelineEditor);
