// The blocks of a response as fields. The server draws them and turns them back into the
// exact text (annotation/authoring/draft_blocks.py); here they are only moved, added and read off.

import { fill, gettext } from "./words.js";

const TWO_LINES = 48; // pixels: a step this high has lines that the arrows go through

/** Return the blocks of a turn as the JSON that the server reads. */
export function writeBlocks(turn) {
  return JSON.stringify([...turn.querySelectorAll("[data-block]")].map(readBlock));
}

function readBlock(block) {
  const kind = block.dataset.block;
  const result = { kind, source: block.dataset.source };
  if (kind === "plan") {
    result.steps = [...block.querySelectorAll("[data-step] textarea")].map((field) => field.value);
  } else if (kind === "action") {
    result.name = block.querySelector("[data-action-name]").value;
    result.parameters = [...block.querySelectorAll("[data-parameter]")].map((row) => {
      const name = row.querySelector("[data-name]");
      return {
        name: name.tagName === "INPUT" ? name.value : name.dataset.name,
        type: row.dataset.type,
        value: row.querySelector("[data-value]").value,
      };
    });
  } else {
    result.text = block.querySelector("[data-text]").value;
  }
  return result;
}

/** Whether a field belongs to a block, so that typing in it changes the response. */
export const onBlockInput = (field) => field.closest("[data-block]") !== null;

/** Apply a button of the blocks; true when it changed them, "redraw" when the server must. */
export function onBlockClick(target, turn) {
  const button = target.closest("button");
  if (!button) return false;
  const block = button.closest("[data-block]");
  const step = button.closest("[data-step]");
  if (button.dataset.add !== undefined) {
    addBlock(turn, button.dataset.add, button.dataset.name ?? "");
    return "redraw";
  }
  if (button.dataset.removeBlock !== undefined) {
    const next = block.nextElementSibling?.querySelector("textarea, input, button");
    block.remove();
    next?.focus();
    return "redraw";
  }
  if (button.dataset.removeStep !== undefined) return removeStep(step);
  if (button.dataset.raiseStep !== undefined) return moveStep(step, -1, button);
  if (button.dataset.addParameter !== undefined) {
    const row = document.getElementById("parameter-row").content.firstElementChild.cloneNode(true);
    block.querySelector(".form").append(row);
    row.querySelector("input").focus();
    return false; // it says nothing yet
  }
  return false;
}

export function onBlockKey(event) {
  const { key, target, altKey, shiftKey, ctrlKey, metaKey } = event;
  const block = target.closest("[data-block]");
  if (!block || ctrlKey || metaKey) return false;
  const by = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (altKey && shiftKey && by) return moveBlock(block, by, target);
  const step = target.closest("[data-step]");
  if (!step) return keepsEnter(event);
  if (altKey && by) return moveStep(step, by, target);
  if (target.tagName !== "TEXTAREA" || altKey) return false;
  if (key === "Enter") return splitStep(step, target);
  if (key === "Backspace" && target.value === "") return removeStep(step, true);
  if (by && !shiftKey && target.clientHeight < TWO_LINES) {
    const other = by < 0 ? step.previousElementSibling : step.nextElementSibling;
    other?.querySelector("textarea").focus();
    if (other) event.preventDefault();
  }
  return false;
}

/** Enter in a one-line field of a block must not press the form's first button. */
function keepsEnter(event) {
  if (event.key === "Enter" && event.target.tagName === "INPUT") {
    event.preventDefault();
    event.target.dispatchEvent(new Event("change", { bubbles: true }));
  }
  return false;
}

function addBlock(turn, kind, name) {
  const area = turn.querySelector(".edit-blocks");
  const block = document.createElement("div");
  block.dataset.block = kind;
  block.dataset.source = "";
  block.className = `block edit ${{ thinking: "think", action: "act" }[kind] ?? kind}`;
  // A placeholder that writeBlocks can read; the server's rendering replaces it.
  if (kind === "plan") {
    const list = document.createElement("ol");
    list.className = "steps edit";
    list.append(stepRow(1));
    block.append(list);
  } else if (kind === "action") {
    const field = document.createElement("input");
    field.dataset.actionName = "";
    field.value = name;
    block.append(field);
  } else {
    const field = document.createElement("textarea");
    field.dataset.text = "";
    block.append(field);
  }
  const blocks = [...area.querySelectorAll(":scope > [data-block]")];
  const last = blocks.at(-1);
  const answer = blocks.find((one) => one.dataset.block === "answer");
  const before =
    kind === "answer"
      ? null
      : (answer ?? (kind !== "action" && last?.dataset.block === "action" ? last : null));
  area.insertBefore(block, before ?? area.querySelector(":scope > .inserts"));
  const index = [...area.querySelectorAll(":scope > [data-block]")].indexOf(block);
  const path = { plan: "step/1", action: name ? "v/1" : "name" }[kind] ?? "text";
  const field = block.querySelector("input, textarea");
  field.dataset.path = `${index}/${path}`;
  field.focus();
}

function stepRow(number) {
  const row = document.createElement("li");
  row.dataset.step = "";
  const mark = document.createElement("b");
  mark.textContent = String(number);
  const field = document.createElement("textarea");
  field.rows = 1;
  row.append(mark, field);
  return row;
}

function splitStep(step, field) {
  const [start, end] = [field.selectionStart, field.selectionEnd];
  const row = step.cloneNode(true);
  const added = row.querySelector("textarea");
  added.value = field.value.slice(end).trimStart();
  field.value = field.value.slice(0, start).trimEnd();
  step.after(row);
  renumber(step.parentElement);
  added.focus();
  added.setSelectionRange(0, 0);
  return true;
}

function removeStep(step, backwards = false) {
  const list = step.parentElement;
  const next = backwards
    ? (step.previousElementSibling ?? step.nextElementSibling)
    : (step.nextElementSibling ?? step.previousElementSibling);
  if (!next) {
    step.querySelector("textarea").value = "";
    step.querySelector("textarea").focus();
    return true;
  }
  const field = next.querySelector("textarea");
  step.remove();
  renumber(list);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
  return true;
}

function moveStep(step, by, focused) {
  const other = by < 0 ? step.previousElementSibling : step.nextElementSibling;
  if (!other) return false;
  if (by < 0) other.before(step);
  else other.after(step);
  renumber(step.parentElement);
  focused.focus();
  return true;
}

function moveBlock(block, by, focused) {
  const other = by < 0 ? block.previousElementSibling : block.nextElementSibling;
  if (!other?.matches("[data-block]")) return false;
  if (by < 0) other.before(block);
  else other.after(block);
  block.parentElement.querySelectorAll(":scope > [data-block]").forEach((one, index) => {
    for (const field of one.querySelectorAll("[data-path]")) {
      field.dataset.path = field.dataset.path.replace(/^\d+/, index);
    }
  });
  focused.focus();
  return true;
}

function renumber(list) {
  const turn = list.closest(".turn-edit").dataset.turn;
  list.querySelectorAll("[data-step]").forEach((step, index) => {
    const number = index + 1;
    step.querySelector("b").textContent = String(number);
    const field = step.querySelector("textarea");
    field.dataset.path = field.dataset.path.replace(/\d+$/, number);
    const say = (one, text) => one?.setAttribute("aria-label", fill(text, { step: number, turn }));
    say(field, gettext("Plan step %(step)s of turn %(turn)s"));
    say(step.querySelector("[data-raise-step]"), gettext("Move step %(step)s up"));
    say(step.querySelector("[data-remove-step]"), gettext("Remove step %(step)s"));
  });
}

let dragged = null;

/** Let a step be dragged by its grip; call `done` with the turn whose plan changed. */
export function onBlockDrag(event, done) {
  const step = event.target.closest?.("[data-step]");
  if (event.type === "dragstart" && event.target.classList.contains("grip")) {
    dragged = step;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", step.querySelector("textarea").value);
    event.dataTransfer.setDragImage(step, 0, 0);
  } else if (!dragged) {
    return;
  } else if (event.type === "dragover" && step?.parentElement === dragged.parentElement) {
    event.preventDefault();
    if (step === dragged) return;
    const { top, height } = step.getBoundingClientRect();
    if (event.clientY < top + height / 2) step.before(dragged);
    else step.after(dragged);
  } else if (event.type === "drop") {
    event.preventDefault();
  } else if (event.type === "dragend") {
    renumber(dragged.parentElement);
    done(dragged.closest(".turn-edit"));
    dragged = null;
  }
}
