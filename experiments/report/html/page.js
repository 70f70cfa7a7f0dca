"use strict";

// What the page knows of its trials. Text of the run enters the document as text only, never as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const REDUCED = matchMedia("(prefers-reduced-motion: reduce)");

/** Returns a new element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const parsed = new Promise((done) => {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", done, { once: true });
  else done();
});

/** Returns a block of data behind the text; it may not have been read from disk yet. */
async function block(name) {
  const found = document.getElementById(name);
  if (found?.nextSibling) return found; // whole: something follows it
  await parsed;
  return document.getElementById(name);
}

/** Media, decoded once; their base64 is let go of then. */
const urls = new Map();

function mediaUrl(name, type) {
  if (!urls.has(name)) urls.set(name, decode(name, type));
  return urls.get(name);
}

async function decode(name, type) {
  const source = await block(name);
  const bytes = Uint8Array.from(atob(source.textContent), (letter) => letter.charCodeAt(0));
  source.textContent = "";
  return URL.createObjectURL(new Blob([bytes], { type }));
}

const videoUrl = (trial) => mediaUrl(`video-${trial}`, "video/mp4");
const clipUrl = (trial, chunk) => mediaUrl(`clip-${trial}-${chunk}`, "image/jpeg");

/** Gives a video its file. Small videos are shown with hard pixels. */
async function give(video, trial) {
  const url = await videoUrl(trial);
  if (video.src === url) return;
  video.onloadedmetadata = () => {
    video.classList.toggle("small", video.videoHeight <= 128);
    video.style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
  };
  video.src = url;
}

// The three views: which one is shown follows the address, so that links and the back button work.
const VIEWS = ["summary", "videos", "blind"];

function showView() {
  const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
  const view = target?.closest(".view")?.id ?? "summary";
  if (target?.id === "main") return;
  document.documentElement.dataset.view = view;
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (target && !VIEWS.includes(target.id)) target.scrollIntoView({ block: "start" });
  else scrollTo({ top: 0, behavior: "instant" });
  document.dispatchEvent(new CustomEvent("view", { detail: view }));
}

function remembered(name) {
  try { return localStorage.getItem(name); } catch { return null; } // a browser may forbid it to pages on disk
}

function remember(name, value) {
  try { localStorage.setItem(name, value); } catch { /* then the next visit begins anew */ }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember("searchkit-theme", theme);
}

const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
document.getElementById("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
if (remembered("searchkit-theme")) document.documentElement.dataset.theme = remembered("searchkit-theme");

const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.querySelectorAll(".row")];
  for (const row of rows) {
    const prompt = row.querySelector("h2").textContent.toLowerCase();
    row.hidden = !words.every((word) => prompt.includes(word));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("matches").textContent = `${shown} of ${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
});

addEventListener("hashchange", showView);
addEventListener("DOMContentLoaded", showView, { once: true });
document.documentElement.dataset.view = "summary";
