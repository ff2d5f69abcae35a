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
