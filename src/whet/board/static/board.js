"use strict";
// Keeps what is under way up to date. The server draws and escapes; here its answer only replaces the one before.
const box = document.getElementById("live");
let shown = null, running = null;

// What a reader has opened or folded stays so.
function replace(text) {
  const before = new Map([...box.querySelectorAll("details")].map(d => [d.id, d.open]));
  box.innerHTML = shown = text;
  for (const d of box.querySelectorAll("details")) if (before.has(d.id)) d.open = before.get(d.id);
}

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch(box.dataset.from);
      const text = await answer.text();
      const now = Number(answer.headers.get("X-Running"));
      if (answer.ok && text !== shown) replace(text);
      // Something ended: the rest of the page has news.
      if (answer.ok && running > 0 && now < running) location.reload();
      if (answer.ok) running = now;
    } catch { /* The board was stopped; the page stays as it was. */ }
  }
  setTimeout(look, 1000);
}

if (box) look();
