// Code of every page: report failed requests, so that nothing looks saved that is not. Other
// modules listen to the same htmx events for their own purposes.

import "./input-method.js"; // first of all: it stands before every listener for keys
import { fill, gettext } from "./words.js";

const GAP = 16; // pixels between toasts and what they stand above
const toasts = document.getElementById("toasts");

/** Show `text` until it is dismissed or, with `seconds`, until they have passed. */
export function toast(text, { level = "error", seconds = 0 } = {}) {
  const last = toasts.lastElementChild;
  if (last && last.firstChild.textContent === text) return last;
  const box = document.createElement("div");
  box.className = `message ${level}`;
  const words = document.createElement("span");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "linkish";
  close.textContent = gettext("Close");
  close.addEventListener("click", () => box.remove());
  box.append(words, close);
  toasts.append(box);
  place();
  keepClear(document.activeElement);
  if (seconds) setTimeout(() => box.remove(), seconds * 1000);
  return box;
}

/** Put the toasts above the page's bar of buttons, at its present height. */
function place() {
  if (!toasts.childElementCount) {
    document.body.style.removeProperty("--toasts");
    return;
  }
  const bar = document.querySelector(".bar-wrap");
  const height = bar ? Math.max(0, innerHeight - bar.getBoundingClientRect().top) : 0;
  toasts.style.bottom = `${Math.min(height, innerHeight / 2) + GAP}px`;
  // Space at the end of the page, so that all of it can be scrolled above the toasts.
  document.body.style.setProperty("--toasts", `${toasts.offsetHeight + 2 * GAP}px`);
}

/** Scroll the element just used out from under the toasts; a text field stays in place. */
function keepClear(element) {
  if (!element?.matches("button, a, input, select") || element.closest(".bar-wrap")) return;
  const under = element.getBoundingClientRect();
  const over = toasts.getBoundingClientRect();
  if (under.bottom > over.top && under.top < over.bottom) scrollBy(0, under.bottom - over.top + GAP);
}

const sizes = new ResizeObserver(place);
sizes.observe(toasts);
sizes.observe(document.body);
for (const name of ["scroll", "resize"]) addEventListener(name, place, { passive: true });

const PER_STATUS = {
  400: gettext("The server did not understand the request. Reload the page; what you entered is still here."),
  403: gettext("You may not do that here, or you have signed out in another tab. Reload the page to sign in again."),
  404: gettext("This is no longer there. Reload the page."),
  409: gettext("This was changed somewhere else. Reload the page to see the newest state."),
  413: gettext("That was too much text for one request."),
};

document.addEventListener("htmx:responseError", (event) => {
  const { xhr, elt } = event.detail;
  if (elt.closest("[data-own-errors]")) return;
  const fallback = gettext("The server answered with an error (%(status)s). Nothing was lost here; try again.");
  toast(PER_STATUS[xhr.status] ?? fill(fallback, { status: xhr.status }));
});

// Signing in again in another tab changes the token that a post must carry. The cookie has the
// current one, so a page that was open meanwhile still works.
document.addEventListener("htmx:configRequest", (event) => {
  const token = csrfToken();
  if (!token || event.detail.verb === "get") return;
  event.detail.headers["X-CSRFToken"] = token;
  const { formData } = event.detail;
  if (formData.has("csrfmiddlewaretoken")) formData.set("csrfmiddlewaretoken", token);
});

/** Return the token in the cookie, or "" if there is none. */
export function csrfToken() {
  return document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? "";
}

for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    if (event.detail.elt?.closest("[data-own-errors]")) return;
    toast(gettext("No connection to the server. Nothing was lost here; try again in a moment."));
  });
}

// After the session expired, a fragment request is answered with the sign-in page: go there instead
// of inserting it here.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (xhr.responseURL && new URL(xhr.responseURL).pathname.startsWith("/accounts/login/")) {
    event.detail.shouldSwap = false;
    toast(gettext("Your session has ended. Sign in again in another tab, then go on here."));
    document.dispatchEvent(new CustomEvent("concord:signed-out"));
  }
});
