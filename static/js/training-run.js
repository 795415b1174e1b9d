// The live page of a run: keep what the person has opened or scrolled while parts of the
// page are swapped, and let the heartbeat tick on answers without a change.

const KEPT = ["run-told", "run-kept"];
let open = new Map();
let scrolled = null;

function remember() {
  const details = document.querySelectorAll(KEPT.map((id) => `#${id} details`).join());
  open = new Map([...details].filter((d) => d.id).map((d) => [d.id, d.open]));
  const log = document.getElementById("log-text");
  scrolled = log && log.scrollTop + log.clientHeight < log.scrollHeight - 8 ? log.scrollTop : null;
}

function restore() {
  for (const [id, was] of open) {
    const details = document.getElementById(id);
    if (details) details.open = was;
  }
  const log = document.getElementById("log-text");
  if (log) log.scrollTop = scrolled ?? log.scrollHeight;
}

document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target?.id === "run-live") remember();
});
document.addEventListener("htmx:oobAfterSwap", restore);
document.addEventListener("htmx:afterRequest", (event) => {
  const heartbeat = document.getElementById("heartbeat");
  const heartbeatText = event.detail.xhr?.getResponseHeader("Concord-Heartbeat");
  if (heartbeat && heartbeatText) heartbeat.textContent = heartbeatText;
});
restore();
