// Traffic between the Judge page and the server: deeds on pairs, the pair after this
// one, and the leases of both.
//
// A deed (decide, skip, put aside) shows the next pair at once, if it is here, and is sent in
// the background. One worker makes one request at a time, so the server gets everything in the
// order it was done. A refused deed comes back on screen with its input. A lost
// connection keeps deeds here; the lease's token makes a repeated request harmless.

import { csrfToken, toast } from "./frame.js";
import { gettext } from "./words.js";

const RETRY_SECONDS = 3;
const PATIENCE_SECONDS = 20;
// A pair fetched ahead is shown only if its lease lasts this long: showing it renews the lease.
const MARGIN_SECONDS = 5;

/** The slots that other tabs of this browser show: leaving this tab must not return them. */
class Tabs {
  constructor() {
    this.others = new Map();
    this.name = crypto.randomUUID?.() ?? String(Math.random());
    this.mine = [];
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel("concord-judge") : null;
    this.channel?.addEventListener("message", ({ data }) => {
      this.others.set(data.tab, new Set(data.slots));
      if (data.isNew) this.say();
    });
    this.say({ isNew: true });
  }

  say(more = {}) {
    this.channel?.postMessage({ tab: this.name, slots: this.mine, ...more });
  }

  hold(slots) {
    if (slots.join() === this.mine.join()) return;
    this.mine = slots;
    this.say();
  }

  shows(slot) {
    return [...this.others.values()].some((slots) => slots.has(slot));
  }
}

class Desk {
  constructor() {
    this.stage = null; // what is on screen
    this.shelf = []; // complete stages to show next, outside the document
    this.deeds = []; // done here, not yet confirmed by the server
    this.isAwaiting = false; // no pair on screen: show one as soon as there is one
    this.asksServer = false; // …and only the server knows which
    this.hasAsked = false; // as far as known, no pair comes after the one on screen
    this.isWorking = false;
    this.notice = null;
    this.tabs = new Tabs();
    window.addEventListener("pagehide", () => this.leave());
    window.addEventListener("pageshow", (event) => event.persisted && this.comeBack());
    window.addEventListener("online", () => this.work());
    window.addEventListener("beforeunload", (event) => this.isCutOff && event.preventDefault());
  }

  /** A stage is now in the document, whoever inserted it. */
  arrived(stage) {
    const changed = this.stage !== stage;
    this.stage = stage;
    this.here = stage.dataset.here ?? this.here;
    this.tellTabs();
    if (this.notice) stage.tell(this.notice);
    this.notice = null;
    clearInterval(this.extending);
    if (!stage.form) return;
    const third = Number(stage.form.dataset.extendSeconds) * 1000;
    this.extending = setInterval(() => this.extendLeases(), Math.max(third, 5000));
    if (changed) this.hasAsked = false;
    // After the paint: first show what the person waits for.
    requestAnimationFrame(() => setTimeout(() => this.work()));
  }

  tellTabs() {
    this.tabs.hold(this.held().map((stage) => stage.lease.slot));
  }

  /** The stages whose leases this page still needs. */
  held() {
    const done = new Set(this.deeds.map((deed) => deed.stage));
    return [this.stage, ...this.shelf].filter((stage) => stage?.lease && !stage.isOver && !done.has(stage));
  }

  // --- deeds ----------------------------------------------------------------------

  /** Do a deed on the pair on screen, and continue with the next one. */
  perform(address, fields, { isDecision = false } = {}) {
    const { stage } = this;
    this.deeds.push({ address, fields, stage, isDecision, tries: 0 });
    this.goOn();
    const undo = this.stage.querySelector("button.undo");
    if (isDecision && undo) undo.disabled = false;
    this.work();
  }

  /** Undo the last decision. Only the server knows which pair that shows. */
  undo(address, fields) {
    this.deeds.push({ address, fields, isUndo: true, tries: 0 });
    this.stage.setBusy(true);
    this.isAwaiting = this.asksServer = true;
    this.work();
  }

  /** Show the next pair now if it is here, else as soon as it arrives. */
  goOn() {
    const at = Date.now() + MARGIN_SECONDS * 1000;
    this.shelf = this.shelf.filter((stage) => stage.isReturned || stage.lease.endsAt > at);
    const next = this.shelf.shift();
    if (next) this.show(next);
    else {
      this.isAwaiting = true;
      this.stage.setBusy(true);
    }
  }

  show(stage) {
    const last = this.stage;
    this.isAwaiting = this.asksServer = false;
    for (const name of ["no-differences", "folded"]) stage.classList.toggle(name, last.classList.contains(name));
    last.setBusy(false);
    last.replaceWith(stage);
    if (!stage.form) window.htmx?.process(stage);
    window.scrollTo(0, 0);
  }

  /** Show newer session figures beside the pair on screen (judge-session.js). */
  refresh(source) {
    for (const part of source.querySelectorAll("judge-figures")) {
      const old = this.stage.querySelector(`#${part.id}`);
      if (old && !old.contains(document.activeElement)) old.replaceWith(part.cloneNode(true));
    }
  }

  /** Show a finished pair again, before the pairs that came after it. */
  bringBack(stage) {
    stage.isReturned = true;
    if (stage === this.stage) {
      this.isAwaiting = false;
      stage.setBusy(false);
    } else if (this.stage.isReturned && !this.isAwaiting) this.shelf.unshift(stage);
    else {
      if (this.stage.form && !this.isAwaiting) this.shelf.unshift(this.stage);
      this.show(stage);
    }
  }

  // --- the worker -----------------------------------------------------------------

  async work() {
    if (this.isWorking || !this.stage) return;
    this.isWorking = true;
    clearTimeout(this.retry);
    try {
      while (await this.step());
      this.isCutOff = false;
      this.lost?.remove();
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw error;
      this.isCutOff = this.deeds.length > 0;
      if (!error.isTold && (this.isCutOff || this.isAwaiting)) this.tellLost();
      this.retry = setTimeout(() => this.work(), RETRY_SECONDS * 1000);
    } finally {
      this.isWorking = false;
      this.tellTabs();
      this.stage.toggleAttribute("data-next-at-hand", this.shelf.length > 0);
    }
  }

  step() {
    if (this.deeds.length) return this.send(this.deeds[0]);
    if (this.isAwaiting) return this.fetchPair();
    if (this.stage.lease && !this.stage.isOver && !this.shelf.length && !this.hasAsked) return this.fetchAhead();
    return false;
  }

  async send(deed) {
    deed.tries += 1;
    let answer;
    try {
      answer = await post(deed.address, deed.fields);
    } catch (error) {
      if (deed.isUndo) {
        // Sent twice it might undo two decisions. The next request shows what happened.
        this.deeds.shift();
        this.notice = {
          level: "warning",
          text: gettext("The connection was lost while undoing. See whether it was done, and try again if not."),
        };
      }
      throw error;
    }
    this.deeds.shift();
    this.hasAsked = false;
    const { notice = null, asks_order: asksOrder = false } = await bodyOf(answer);
    if (answer.ok) {
      if (deed.isUndo) this.shelf = [];
      if (notice) this.tell(notice);
      // Figures come with the pair ahead, or alone if that is here already.
      if (this.shelf.length) document.dispatchEvent(new CustomEvent("concord:recorded"));
    } else if (deed.isUndo) {
      this.isAwaiting = this.asksServer = false;
      this.stage.setBusy(false);
      if (notice) this.stage.tell(notice);
      else toast(refusal(answer));
    } else if (answer.status === 409 && !deed.isDecision) {
      // A skip whose answer was lost is sent again: it is done, or the pair is someone else's.
      if (deed.tries === 1) this.tell(notice);
    } else {
      deed.stage.isOver = answer.status === 409;
      this.bringBack(deed.stage);
      if (notice) deed.stage.tell(notice);
      else if (!asksOrder) toast(refusal(answer));
      if (asksOrder) deed.stage.askOrder();
    }
    return true;
  }

  /** Ask for the person's pair when none is here. */
  async fetchPair() {
    const answer = await request(this.here, { headers: { "HX-Request": "true" } });
    const stage = answer.ok ? stageOf(await answer.text()) : null;
    if (!stage) {
      this.trouble = toast(refusal(answer));
      throw new NoAnswer({ isTold: true });
    }
    this.trouble?.remove();
    if (this.isAwaiting) this.show(stage);
    return true;
  }

  /** Tell the server which pair is on screen, and fetch the one after it. */
  async fetchAhead() {
    const { stage } = this;
    const answer = await post(stage.form.dataset.ahead, stage.leaseFields());
    this.hasAsked = true;
    if (answer.ok) {
      stage.lease.since = answer.headers.get("Judge-Since");
      const text = await answer.text();
      const next = stageOf(text);
      if (next) this.shelf.push(next);
      this.refresh(fragment(text));
      if (this.isAwaiting && !this.asksServer && next) this.goOn();
    } else if (answer.status === 409) this.tellPassedOn(stage);
    return true;
  }

  tell(notice) {
    if (this.isAwaiting) this.notice = notice;
    else this.stage.tell(notice);
  }

  tellLost() {
    if (this.lost?.isConnected) return;
    this.lost = toast(
      this.deeds.length
        ? gettext("No connection. Your decision is kept here and sent again by itself.")
        : gettext("No connection. The next pair comes as soon as there is one."),
    );
  }

  tellPassedOn(stage) {
    if (stage !== this.stage || this.isAwaiting || stage.isPassedOn) return;
    stage.isPassedOn = true;
    stage.tell({
      level: "warning",
      text: gettext(
        "This pair has passed on to someone else. You may still decide; it would be kept as an extra.",
      ),
    });
  }

  // --- leases ---------------------------------------------------------------------

  /** Extend the leases only while somebody works on the pairs. */
  async extendLeases() {
    const { stage } = this;
    if (!stage.isActive || document.hidden || this.isAwaiting || stage.isOver) return;
    stage.isActive = false;
    const address = stage.form.dataset.extend;
    try {
      const answer = await post(address, stage.leaseFields());
      if (answer.status === 409) this.tellPassedOn(stage);
      const [next] = this.shelf;
      if (!next) return;
      const second = await post(address, next.leaseFields());
      if (second.ok) next.lease.endsAt = Date.now() + next.lease.seconds * 1000;
      else if (second.status === 409) this.dropAhead();
    } catch {
      // Offline: the next deed reports it, and a late judgment is kept anyway.
    }
  }

  /** The person is back: leases of fetched pairs may have run out meanwhile. */
  wakeUp() {
    const [next] = this.shelf;
    if (next && !next.isReturned && next.lease.endsAt < Date.now() + MARGIN_SECONDS * 1000) this.dropAhead();
  }

  dropAhead() {
    this.shelf.shift();
    this.hasAsked = false;
    this.work();
  }

  /** The page is left: send the deeds, return the slots that no other tab shows. */
  leave() {
    for (const deed of this.deeds) if (!deed.isUndo || !deed.tries) beacon(deed.address, deed.fields);
    const held = this.held().filter((stage) => !this.tabs.shows(stage.lease.slot));
    this.tabs.hold([]);
    if (!held.length) return;
    const body = new URLSearchParams();
    for (const stage of held) {
      for (const name of ["slot", "token", "since"]) body.append(name, stage.lease[name]);
    }
    beacon(held[0].form.dataset.leave, body);
  }

  /** The browser restores the page as it was left: renew the lease of the pair. */
  comeBack() {
    this.shelf = this.shelf.filter((stage) => stage.isReturned);
    this.hasAsked = false;
    this.work();
  }
}

// --- requests ---------------------------------------------------------------------

/** The request or its answer was lost. */
class NoAnswer extends Error {
  constructor({ isTold = false } = {}) {
    super("no answer");
    this.isTold = isTold;
  }
}

async function request(address, options) {
  try {
    return await fetch(address, {
      // A sign-in page instead of an answer counts as a refusal.
      redirect: "manual",
      signal: AbortSignal.timeout(PATIENCE_SECONDS * 1000),
      ...options,
    });
  } catch {
    throw new NoAnswer();
  }
}

function withToken(fields) {
  const body = new URLSearchParams(fields);
  // Signing in again in another tab changes the token; the cookie has the current one.
  if (csrfToken()) body.set("csrfmiddlewaretoken", csrfToken());
  return body;
}

const post = (address, fields) =>
  request(address, { method: "POST", body: withToken(fields), headers: { Accept: "application/json" } });

const beacon = (address, fields) => navigator.sendBeacon(address, withToken(fields));

async function bodyOf(answer) {
  try {
    return await answer.json();
  } catch {
    return {};
  }
}

function refusal(answer) {
  return answer.type === "opaqueredirect" || answer.status === 403
    ? gettext(
        "You may not judge here, or you signed out in another tab. Sign in there and submit again: your decision is still here.",
      )
    : gettext("The server could not take this. Your decision is still here; submit again.");
}

/** The elements of a fragment, inert: from the same server, and the CSP runs no script in it. */
function fragment(text) {
  const box = document.createElement("template");
  box.innerHTML = text;
  const today = box.content.querySelector("#today");
  if (today) {
    today.removeAttribute("hx-swap-oob");
    document.getElementById("today")?.replaceWith(today);
  }
  return box.content;
}

function stageOf(text) {
  const stage = fragment(text).querySelector("judge-stage");
  if (!stage) return null;
  document.adoptNode(stage);
  customElements.upgrade(stage);
  stage.prepare();
  return stage;
}

export const desk = new Desk();
