// Keeps a page fresh: the server sends fragments of HTML by server-sent events, each replaces the element with
// its id. Elements are changed in place, so that focus, open details and what somebody types stay. It knows
// nothing of what the fragments show.
//
//   event swap   data: [{"id": "...", "html": "<tr id=...>...</tr>"}, ...]
//   event state  data: {"text": "live", "state": "on" | "stale"}
//
// Without a word from the server for SILENCE ms the page says since when. A hidden page is not kept fresh: a
// browser has few connections to a host, and many tabs would use them up.

const SILENCE = 10_000;
const where = document.body.dataset.live;
const sign = document.getElementById("live");
let source = null;
let heard = Date.now();
let wait = 1000;
let retry = 0;

function say(text, state) {
  if (sign.textContent !== text) sign.textContent = text;
  sign.dataset.state = state;
}

const time = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

function open() {
  close();
  source = new EventSource(where);
  source.addEventListener("swap", (e) => { news(); for (const part of JSON.parse(e.data)) swap(part.id, part.html); });
  source.addEventListener("state", (e) => { news(); const s = JSON.parse(e.data); say(s.text, s.state); });
  source.onerror = () => {
    // The browser tries again by itself only after some failures; after others, such as a session that has ended,
    // it gives up. So it is done here, for all.
    close();
    say(`not connected since ${time(heard)}`, "lost");
    retry = setTimeout(open, wait);
    wait = Math.min(2 * wait, 15_000);
  };
}

function close() {
  clearTimeout(retry);
  if (source) source.close();
  source = null;
}

function news() {
  heard = Date.now();
  wait = 1000;
}

function swap(id, html) {
  const old = document.getElementById(id);
  if (!old) return;
  const box = document.createElement("template");
  box.innerHTML = html.trim();
  morph(old, box.content.firstElementChild);
}

// morph makes the element a look like b and keeps what of it can stay.
function morph(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) {
    a.replaceWith(b);
    return;
  }
  if (a.nodeType !== Node.ELEMENT_NODE) {
    if (a.nodeValue !== b.nodeValue) a.nodeValue = b.nodeValue;
    return;
  }
  attributes(a, b);
  children(a, b);
}

// What a person did to an element is not the server's to undo.
const theirs = (el, name) => name === "open" || name === "hidden" || (name === "value" && el === document.activeElement);

function attributes(a, b) {
  for (const { name, value } of b.attributes) {
    if (a.getAttribute(name) !== value && !theirs(a, name)) a.setAttribute(name, value);
  }
  for (const { name } of [...a.attributes]) {
    if (!b.hasAttribute(name) && !theirs(a, name)) a.removeAttribute(name);
  }
}

// What a script of the page put in stays, and is not counted.
const kept = (n) => n?.nodeType === Node.ELEMENT_NODE && n.hasAttribute("data-keep");
const after = (n) => { do n = n.nextSibling; while (kept(n)); return n; };

// children with an id are recognised by it wherever they are, others by their place.
function children(a, b) {
  let at = kept(a.firstChild) ? after(a.firstChild) : a.firstChild;
  for (const want of [...b.childNodes]) {
    const known = want.id && a.querySelector(`:scope > #${CSS.escape(want.id)}`);
    if (known) {
      if (known !== at) a.insertBefore(known, at);
      else at = after(at);
      morph(known, want);
    } else if (!at || at.id || want.id) {
      a.insertBefore(want, at);
    } else {
      const next = after(at);
      morph(at, want);
      at = next;
    }
  }
  while (at) {
    const next = after(at);
    at.remove();
    at = next;
  }
}

setInterval(() => {
  if (source && Date.now() - heard > SILENCE) say(`nothing heard since ${time(heard)}`, "lost");
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    close();
    say("paused while hidden", "off");
  } else if (!source) {
    heard = Date.now();
    open();
  }
});
if (!document.hidden) open();
