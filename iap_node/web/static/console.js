// What the console does beside htmx: answers of forms that failed are shown, a dialogue closes with Escape, and
// tables can be walked by the keyboard.
"use strict";

// Errors come as small pages with their status: show them where messages stand.
document.addEventListener("htmx:beforeSwap", (event) => {
  const status = event.detail.xhr.status;
  if (status >= 400) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
    event.detail.target = document.getElementById("messages");
  }
});

document.addEventListener("htmx:sendError", () => {
  document.getElementById("messages").textContent = "The node does not answer.";
});

// A row's first link is what Enter and a click open; j and k go down and up.
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  if (event.key !== "j" && event.key !== "k") return;
  const links = [...document.querySelectorAll("main table tbody tr a:first-of-type")];
  if (links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  const next = event.key === "j" ? Math.min(at + 1, links.length - 1) : Math.max(at - 1, 0);
  links[next].focus();
});

// What is live renews itself, but not under somebody's hands: a form that was begun, ticks, a question that waits.
const begun = (field) => (field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue);
function isLiveUnderHands(detail) {
  const cause = detail.requestConfig.triggeringEvent;
  if (!cause || !cause.type.startsWith("sse:")) return false;
  const target = detail.target;
  const fields = [...target.querySelectorAll("input:not([type=hidden]), textarea")];
  const focused = document.activeElement;
  const typing = target.contains(focused) && focused.closest("form");
  return Boolean(typing || fields.some(begun) || target.querySelector("#confirm form"));
}
document.addEventListener("htmx:beforeRequest", (event) => {
  if (isLiveUnderHands(event.detail)) event.preventDefault();
});
// What was asked for before somebody began comes after.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (isLiveUnderHands(event.detail)) event.detail.shouldSwap = false;
});

// Details that somebody opened stay open when their part of the page is renewed.
const opened = new Set();
document.addEventListener("toggle", (event) => {
  if (!event.target.id) return;
  if (event.target.open) opened.add(event.target.id);
  else opened.delete(event.target.id);
}, true);
document.addEventListener("htmx:afterSwap", (event) => {
  for (const one of event.detail.target.querySelectorAll("details[id]")) one.open = opened.has(one.id);
});
