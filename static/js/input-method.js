// Input methods (Chinese, Japanese, Korean, dead keys) use keys to choose and confirm what
// is being written. Such a key is theirs: no handler of any page may take it for a command.
//
// Browsers differ in how they tell. Chrome and Firefox send the keydown while composing
// (`isComposing`), then compositionend. Safari ends the composition first; the keydown that
// ended it comes after, not composing any more, with the key code 229. Where that code is
// lacking too, it is the first keydown after a compositionend that no key was down for.

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
  // What confirms a word neither sends a form nor breaks a line.
  if (!isTaken && event.key === "Enter") event.preventDefault();
}

function onCompositionEnd(event) {
  if (!isTaken) endedAt = event.timeStamp;
}

function onKeyup() {
  isTaken = false;
  endedAt = -Infinity;
}

// On the window and before the page: no other listener is asked earlier.
addEventListener("keydown", onKeydown, { capture: true });
addEventListener("keyup", onKeyup, { capture: true });
addEventListener("compositionend", onCompositionEnd, { capture: true });
