// The session on the Judge page: the strip of last decisions as buttons that
// arrow keys walk, closing a notice, and fetching the figures when a decision was recorded
// in the background. Everything here is a form without this module.

import { csrfToken } from "./frame.js";

const squares = () => [...document.querySelectorAll("#last .square:not(:disabled)")];

/** One square is in the tab order; the arrow keys move among all of them. */
function choose(square, { focus = true } = {}) {
  for (const one of squares()) one.tabIndex = one === square ? 0 : -1;
  if (focus) square.focus();
}

function showName() {
  const label = document.querySelector("#last .last-name");
  if (!label) return;
  const focused = document.activeElement?.closest("#last .square");
  label.textContent = focused?.getAttribute("aria-label") ?? label.dataset.name;
}

function prepare() {
  const last = squares().at(-1);
  if (last) choose(last, { focus: false });
}

/** While typing, or with a sheet, dialog or request open, keys are not ours. */
function isElsewhere(target) {
  return (
    target.closest?.('textarea, select, [contenteditable], input:not([type="checkbox"], [type="radio"])') ||
    document.querySelector(":popover-open, dialog[open], form.stage.sending")
  );
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const square = event.target.closest?.("#last .square");
  if (square) onStripKey(event, square);
  else if (event.shiftKey && event.key.toLowerCase() === "u" && !isElsewhere(event.target)) {
    // Runs before judge.js, for which U without Shift undoes the newest decision.
    event.stopPropagation();
    event.preventDefault();
    const last = squares().at(-1);
    if (last && !event.repeat) choose(last);
  }
}

function onStripKey(event, square) {
  const all = squares();
  const at = all.indexOf(square);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
  if (to !== undefined) choose(all[Math.max(0, Math.min(to, all.length - 1))]);
  else if (event.key === "Escape") square.blur();
  else if (event.key.toLowerCase() !== "u") return; // a U here would undo another decision
  event.stopPropagation();
  event.preventDefault();
}

// Notices closed here; the server knows too, but a pair may have been fetched before.
const closed = new Set();

async function onSubmit(event) {
  if (event.target.id !== "close-notice") return;
  event.preventDefault();
  const { submitter } = event;
  const body = new URLSearchParams({ notice: submitter.value, csrfmiddlewaretoken: csrfToken() });
  closed.add(submitter.value);
  submitter.closest(".notice").remove();
  try {
    await fetch(event.target.action, { method: "POST", body, headers: { "X-Requested-With": "fetch" } });
  } catch {
    // Not saved, so the notice may be shown again, which does no harm.
  }
}

/** Fetch the figures alone; judge.js asks for it after a post in the background. */
function refresh() {
  const address = document.querySelector("#last")?.dataset.session;
  if (address) globalThis.htmx?.ajax("GET", address, { swap: "none" });
}

/** A pair fetched ahead carries older figures: replace them by the newest seen. */
class JudgeFigures extends HTMLElement {
  static newest = new Map();

  connectedCallback() {
    const { newest } = JudgeFigures;
    const known = newest.get(this.id);
    const at = Number(this.dataset.at);
    if (known && known.at > at) {
      this.dataset.at = known.at;
      this.replaceChildren(...known.nodes.map((node) => node.cloneNode(true)));
    } else newest.set(this.id, { at, nodes: [...this.childNodes].map((node) => node.cloneNode(true)) });
    for (const button of this.querySelectorAll('button[name="notice"]')) {
      if (closed.has(button.value)) button.closest(".notice").remove();
    }
    prepare();
  }
}
customElements.define("judge-figures", JudgeFigures);

let waiting = 0;
document.addEventListener("concord:recorded", () => {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, 300);
});
document.addEventListener("keydown", onKey, { capture: true });
document.addEventListener("focusin", showName);
document.addEventListener("focusout", () => setTimeout(showName));
document.addEventListener("submit", onSubmit);
