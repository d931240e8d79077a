"use strict";
// Keys 1 to 4 press the buttons.
const keys = document.querySelector(".keys");
if (keys) keys.hidden = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  document.querySelector(`button[aria-keyshortcuts="${CSS.escape(event.key)}"]`)?.click();
});
