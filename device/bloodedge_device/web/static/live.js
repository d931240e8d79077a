"use strict";
// Each answer of /live/view holds the page's moving parts for one frame; its picture is loaded before they are shown,
// so that outlines and picture belong together.
const WAIT_S = 5, SHORTEST_MS = 120, AFTER_ERROR_MS = 3000, SPEAK_EVERY_MS = 10000;
const summary = document.getElementById("summary"), offline = document.getElementById("offline");
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const visible = () => document.hidden
  ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true })) : null;
let number = Number(document.querySelector("[data-part=stage]").dataset.number), spokenAt = 0;

async function load() {
  const answer = await fetch(`/live/view?after=${number}&wait_s=${WAIT_S}`);
  if (answer.status === 401) { location.assign("/login"); await pause(60000); }
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const img = fresh.querySelector("[data-part=stage] img");
  if (img) {
    const picture = document.importNode(img, true);
    await picture.decode().catch(() => null);
    if (!picture.naturalWidth) return false;
    img.replaceWith(picture);
  }
  return fresh;
}

function show(fresh) {
  for (const part of fresh.querySelectorAll("[data-part]")) {
    document.querySelector(`[data-part=${part.dataset.part}]`).replaceWith(part);
  }
  const text = document.querySelector("[data-part=slide]").dataset.summary, now = Date.now();
  if (text !== summary.textContent && now - spokenAt >= SPEAK_EVERY_MS) { summary.textContent = text; spokenAt = now; }
}

(async () => {
  for (;;) {
    await visible();
    try {
      const fresh = await load();
      const next = fresh ? Number(fresh.querySelector("[data-part=stage]").dataset.number) : 0;
      if (fresh) show(fresh);
      offline.hidden = true;
      await pause(next === number ? 1000 : SHORTEST_MS);
      number = next;
    } catch (error) {
      offline.hidden = false;
      number = 0;
      await pause(AFTER_ERROR_MS);
    }
  }
})();
