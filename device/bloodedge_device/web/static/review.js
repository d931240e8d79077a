"use strict";
// Keys press the buttons that show them.
const keys = document.querySelector(".keys");
if (keys) keys.hidden = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  document.querySelector(`button[aria-keyshortcuts="${CSS.escape(event.key)}"]`)?.click();
});
