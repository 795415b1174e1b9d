// Input methods (Chinese, Japanese, Korean, dead keys) use keys to choose and confirm text. Such a
// key belongs to them: no handler of a page may take it for a command. Browsers report it
// differently. Chrome and Firefox send the keydown while composing (`isComposing`), then
// compositionend. Safari ends the composition first, then sends the keydown that ended it, no
// longer composing, with the key code 229. Without that code, it is the first keydown after a
// compositionend that no pressed key belongs to.

const PROCESSED = 229; // the code of a key that an input method has taken
const SAME_KEY_MILLISECONDS = 500; // a word chosen with the mouse ends a composition as well

let isTaken = false; // a key that the input method took is down
let endedAt = -Infinity;

function onKeydown(event) {
  const endsWord = event.timeStamp - endedAt < SAME_KEY_MILLISECONDS;
  endedAt = -Infinity;
  isTaken = event.isComposing || event.keyCode === PROCESSED;
  if (!isTaken && !endsWord) return;
  event.stopImmediatePropagation();
  // A key that confirms a word neither submits a form nor breaks a line.
  if (!isTaken && event.key === "Enter") event.preventDefault();
}

function onCompositionEnd(event) {
  if (!isTaken) endedAt = event.timeStamp;
}

function onKeyup() {
  isTaken = false;
  endedAt = -Infinity;
}

// In the window's capture phase: it runs before every other listener.
addEventListener("keydown", onKeydown, { capture: true });
addEventListener("keyup", onKeyup, { capture: true });
addEventListener("compositionend", onCompositionEnd, { capture: true });
