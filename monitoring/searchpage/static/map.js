// Draws the map of documents on a canvas: pan by dragging, zoom by buttons, keys or a pinch, a document's title on
// hover or by arrow keys, a click searches for what is like it. It knows the sheet that /search/map sends (columns:
// x, y, source, day, id, title, newest first) and nothing of how it came about.

const box = document.getElementById("map");
if (box) start();

function start() {
  const AGAIN = 1000;      // ms until a map that is being drawn is asked for again
  const FOLLOW = 30_000;   // ms between looks at whether it has changed
  const REACH = 14;        // px around the pointer in which a document is found
  const SHAPES = ["circle", "square", "triangle", "diamond", "plus", "down", "ring", "dot"];

  const $ = (id) => document.getElementById(id);
  const canvas = $("map-canvas"), tip = $("map-tip"), status = $("map-status"), note = $("map-note");
  const sheetBox = canvas.parentElement;
  const pen = canvas.getContext("2d");
  const hits = JSON.parse(box.dataset.hits || "[]");
  const rankOf = new Map(hits.map((id, i) => [id, i + 1]));
  const address = `/search/map?model=${encodeURIComponent(box.dataset.model)}`;

  let data = null;         // the sheet
  let etag = "";
  let hidden = new Set();  // sources switched off, by name
  let view = { scale: 1, x: 0, y: 0 }; // of the map's own square, in parts of the canvas
  let bounds = { left: -1, right: 1, top: 1, bottom: -1 };
  let chosen = -1;         // index of the document whose title is shown
  let size = { w: 0, h: 0, ratio: 1 }; // of the canvas, in CSS pixels
  let xs = [], ys = [];    // where each document is on the canvas
  let shown = [];          // by source: it is not switched off
  let sprites = [], palette = [];
  let stale = true;        // the layer of documents has to be stamped anew
  let frame = 0;
  const layer = document.createElement("canvas"); // all documents: what hovering changes is drawn over it

  // --- what the server has ---

  async function load() {
    let wait = FOLLOW;
    try {
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      if (answer.status === 200) {
        wait = 1000 * Number(answer.headers.get("Retry-After")) || FOLLOW;
        if (answer.headers.get("ETag") !== etag || !data) show(await answer.json());
        etag = answer.headers.get("ETag");
      } else {
        const { says } = await answer.json();
        if (!data) status.textContent = says;
        wait = answer.status === 202 ? AGAIN : 10 * AGAIN;
      }
    } catch {
      if (!data) status.textContent = "the map could not be fetched";
      wait = 10 * AGAIN;
    }
    setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", load, { once: true }) : load()), wait);
  }

  function show(next) {
    const id = chosen >= 0 ? data.id[chosen] : null;
    data = next;
    data.sources ??= [];
    const n = data.x?.length ?? 0;
    chosen = id === null ? -1 : data.id.indexOf(id);
    if (n === 0) {
      status.textContent = "no documents are stored yet";
      sheetBox.hidden = true;
      return;
    }
    const drawn = n.toLocaleString("en"), all = data.documents.toLocaleString("en");
    status.textContent = n < data.documents ? `${drawn} of ${all}` : `${drawn} document${n === 1 ? "" : "s"}`;
    const [a, b] = data.explained.map((part) => `${Math.round(100 * part)} %`);
    note.textContent = `Near means alike: the two directions in which these documents' vectors differ most, ${a} and ${b} of all differences.`;
    note.hidden = false;
    sheetBox.hidden = false;
    fit();
    legend();
    sift();
    resize();
  }

  // --- the sheet on the canvas ---

  // fit finds the square that holds all documents.
  function fit() {
    const { x, y } = data;
    const b = { left: Infinity, right: -Infinity, top: -Infinity, bottom: Infinity };
    for (let i = 0; i < x.length; i++) {
      b.left = Math.min(b.left, x[i]); b.right = Math.max(b.right, x[i]);
      b.bottom = Math.min(b.bottom, y[i]); b.top = Math.max(b.top, y[i]);
    }
    if (b.left === b.right) { b.left--; b.right++; }
    if (b.bottom === b.top) { b.bottom--; b.top++; }
    bounds = b;
  }

  const EDGE = 22;
  const seen = (i) => shown[data.s[i]];

  // lay finds where each document is; until the view changes nothing else asks.
  function lay() {
    const { x, y } = data, w = size.w - 2 * EDGE, h = size.h - 2 * EDGE;
    const fx = view.scale * w / (bounds.right - bounds.left), fy = view.scale * h / (bounds.top - bounds.bottom);
    const ox = EDGE + view.x * w - bounds.left * fx, oy = EDGE + view.y * h + bounds.top * fy;
    xs = Float32Array.from(x, (v) => ox + v * fx);
    ys = Float32Array.from(y, (v) => oy - v * fy);
    stale = true;
    ask();
  }

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return SHAPES.map((_, i) => style.getPropertyValue(`--m${i + 1}`).trim());
  };
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function outline(p, shape, c, r) {
    p.beginPath();
    switch (shape) {
      case "square": p.rect(c - 0.85 * r, c - 0.85 * r, 1.7 * r, 1.7 * r); break;
      case "triangle": p.moveTo(c, c - 1.15 * r); p.lineTo(c + 1.05 * r, c + 0.8 * r); p.lineTo(c - 1.05 * r, c + 0.8 * r); break;
      case "down": p.moveTo(c, c + 1.15 * r); p.lineTo(c + 1.05 * r, c - 0.8 * r); p.lineTo(c - 1.05 * r, c - 0.8 * r); break;
      case "diamond": p.moveTo(c, c - 1.25 * r); p.lineTo(c + 1.1 * r, c); p.lineTo(c, c + 1.25 * r); p.lineTo(c - 1.1 * r, c); break;
      case "plus": p.rect(c - 0.35 * r, c - 1.1 * r, 0.7 * r, 2.2 * r); p.rect(c - 1.1 * r, c - 0.35 * r, 2.2 * r, 0.7 * r); break;
      default: p.arc(c, c, shape === "dot" ? 0.7 * r : r, 0, 2 * Math.PI);
    }
    p.closePath();
  }

  // A shape is drawn once and then stamped: ten thousand stamps take a few milliseconds, as many paths a hundred.
  function makeSprites() {
    const { ratio } = size;
    const radius = (data.x.length > 4000 ? 2.4 : data.x.length > 800 ? 3.2 : 4.2) * Math.min(1.8, Math.sqrt(view.scale));
    const ground = variable("--ground");
    palette = colours();
    sprites = palette.map((colour, i) => {
      const s = document.createElement("canvas");
      s.width = s.height = Math.ceil((2.6 * radius + 2) * ratio);
      const p = s.getContext("2d"), c = s.width / 2, r = radius * ratio;
      outline(p, SHAPES[i], c, r);
      p.globalAlpha = 0.85;
      if (SHAPES[i] === "ring") {
        p.lineWidth = 0.6 * r;
        p.strokeStyle = colour;
        p.stroke();
      } else {
        p.fillStyle = colour;
        p.fill();
        p.lineWidth = 0.5 * ratio;
        p.strokeStyle = ground;
        p.stroke();
      }
      return { image: s, size: s.width / ratio };
    });
  }

  function resize() {
    size = { w: canvas.clientWidth, h: canvas.clientHeight, ratio: devicePixelRatio || 1 };
    for (const c of [canvas, layer]) {
      c.width = Math.round(size.w * size.ratio);
      c.height = Math.round(size.h * size.ratio);
    }
    makeSprites();
    lay();
  }

  // ask draws before the next picture, once however often it is called.
  function ask() {
    frame ||= requestAnimationFrame(() => { frame = 0; if (data?.x?.length) draw(); });
  }

  function draw() {
    const begun = performance.now();
    if (stale) stamp();
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.globalAlpha = hits.length ? 0.45 : 1;
    pen.drawImage(layer, 0, 0);
    pen.globalAlpha = 1;
    pen.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    drawHits();
    if (chosen >= 0) ring(chosen, 8, variable("--text"), 2);
    canvas.dataset.ms = (performance.now() - begun).toFixed(1);
  }

  // stamp draws the layer of documents, the newest on top.
  function stamp() {
    const p = layer.getContext("2d");
    p.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    p.clearRect(0, 0, size.w, size.h);
    let drawn = 0;
    for (let i = xs.length - 1; i >= 0; i--) {
      const x = xs[i], y = ys[i];
      if (!seen(i) || x < -9 || y < -9 || x > size.w + 9 || y > size.h + 9) continue;
      const s = sprites[data.s[i]];
      p.drawImage(s.image, x - s.size / 2, y - s.size / 2, s.size, s.size);
      drawn++;
    }
    stale = false;
    canvas.dataset.drawn = drawn;
  }

  function ring(i, radius, colour, line) {
    pen.beginPath();
    pen.arc(xs[i], ys[i], radius, 0, 2 * Math.PI);
    pen.lineWidth = line;
    pen.strokeStyle = colour;
    pen.stroke();
  }

  // drawHits marks what the search found, with its rank, worst first so that the best lies on top.
  function drawHits() {
    const found = [];
    for (let i = 0; i < data.id.length; i++) {
      const rank = rankOf.get(data.id[i]);
      if (rank && seen(i)) found.push([rank, i]);
    }
    found.sort((a, b) => b[0] - a[0]);
    pen.font = "600 11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const [rank, i] of found) {
      const best = rank <= 9;
      pen.beginPath();
      pen.arc(xs[i], ys[i], best ? 9 : 5, 0, 2 * Math.PI);
      pen.fillStyle = palette[data.s[i]];
      pen.fill();
      pen.lineWidth = 1.5;
      pen.strokeStyle = variable("--panel");
      pen.stroke();
      if (best) {
        pen.fillStyle = variable("--panel");
        pen.fillText(rank, xs[i], ys[i] + 0.5);
      }
    }
    canvas.dataset.hits = found.length;
  }

  // --- the legend ---

  // sift leaves the sources that are not switched off.
  function sift() {
    shown = data.sources.map((source) => !hidden.has(source.name));
    stale = true;
    ask();
  }

  function legend() {
    const list = $("map-legend");
    const svg = (i) => {
      const paths = {
        square: "M1.5 1.5h9v9h-9z", triangle: "M6 .5l5.5 10.5H.5z", diamond: "M6 0l5 6-5 6-5-6z", down: "M6 11.5L11.5 1H.5z",
        plus: "M4.5 .5h3v4h4v3h-4v4h-3v-4h-4v-3h4z", dot: "M6 2.5a3.5 3.5 0 1 0 .01 0z",
        ring: "M6 .8a5.2 5.2 0 1 0 .01 0zm0 2.8a2.4 2.4 0 1 1-.01 0z", circle: "M6 1a5 5 0 1 0 .01 0z",
      };
      const s = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      s.setAttribute("viewBox", "0 0 12 12");
      s.setAttribute("aria-hidden", "true");
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", paths[SHAPES[i]]);
      path.setAttribute("fill-rule", "evenodd");
      path.setAttribute("class", `c${i}`);
      s.append(path);
      return s;
    };
    list.replaceChildren(...data.sources.map((source, i) => {
      const b = document.createElement("button");
      b.type = "button";
      b.setAttribute("aria-pressed", String(!hidden.has(source.name)));
      const count = document.createElement("span");
      count.className = "dim";
      count.textContent = source.count.toLocaleString("en");
      b.append(svg(i), source.name || "no source", count);
      b.addEventListener("click", () => {
        if (!hidden.delete(source.name)) hidden.add(source.name);
        b.setAttribute("aria-pressed", String(!hidden.has(source.name)));
        choose(-1);
        sift();
      });
      return b;
    }));
  }

  // --- a document's title ---

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < data.x.length; i++) {
      if (!seen(i)) continue;
      const dx = xs[i] - x, dy = ys[i] - y;
      const d = (dx * dx + dy * dy) * (rankOf.has(data.id[i]) ? 0.5 : 1); // a hit is easier to point at
      if (d < least) { least = d; best = i; }
    }
    return best;
  }

  function choose(i) {
    if (i === chosen) return;
    document.querySelector(".list > li.hot")?.classList.remove("hot");
    chosen = i;
    tip.hidden = i < 0;
    canvas.style.cursor = i < 0 ? "" : "pointer";
    if (i >= 0) {
      const small = document.createElement("small");
      small.textContent = [data.sources[data.s[i]].name, data.d[i], rankOf.has(data.id[i]) ? `result ${rankOf.get(data.id[i])}` : ""].filter(Boolean).join(" · ");
      tip.replaceChildren(data.t[i], small);
      const x = xs[i], y = ys[i];
      tip.style.left = `${Math.max(4, Math.min(x + 14, size.w - tip.offsetWidth - 4))}px`;
      tip.style.top = `${y + 14 + tip.offsetHeight > size.h ? y - 14 - tip.offsetHeight : y + 14}px`;
      const rank = rankOf.get(data.id[i]);
      if (rank) document.getElementById(`hit-${rank}`)?.classList.add("hot");
    }
    ask();
  }

  function open(i) {
    const to = new URL(box.dataset.like, location.href);
    to.searchParams.set("like", data.id[i]);
    location.href = to;
  }

  // --- moving about ---

  // middle is where buttons and keys zoom to: the chosen document, or the middle of what was found, or of all that is
  // in sight.
  function middle() {
    if (chosen >= 0) return [xs[chosen], ys[chosen]];
    const inSight = (i) => seen(i) && xs[i] >= 0 && ys[i] >= 0 && xs[i] <= size.w && ys[i] <= size.h;
    let of = [...xs.keys()].filter((i) => rankOf.has(data.id[i]) && inSight(i));
    if (!of.length) of = [...xs.keys()].filter(inSight);
    if (!of.length) return [size.w / 2, size.h / 2];
    const mean = (v) => of.reduce((sum, i) => sum + v[i], 0) / of.length;
    return [mean(xs), mean(ys)];
  }

  function zoom(factor, [x, y] = middle()) {
    const scale = Math.min(60, Math.max(1, view.scale * factor));
    const w = size.w - 2 * EDGE, h = size.h - 2 * EDGE;
    const at = { x: ((x - EDGE) / w - view.x) / view.scale, y: ((y - EDGE) / h - view.y) / view.scale };
    view = { scale, x: (x - EDGE) / w - at.x * scale, y: (y - EDGE) / h - at.y * scale };
    keep();
  }

  // keep lets nobody lose the map out of sight.
  function keep() {
    const least = 1 - view.scale;
    view.x = Math.min(0, Math.max(least, view.x));
    view.y = Math.min(0, Math.max(least, view.y));
    canvas.classList.toggle("far", view.scale > 1);
    choose(-1);
    makeSprites();
    lay();
  }

  function all() {
    view = { scale: 1, x: 0, y: 0 };
    keep();
  }

  const at = (e) => { const r = canvas.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
  let pressed = null;

  canvas.addEventListener("pointerdown", (e) => {
    const [x, y] = at(e);
    pressed = { x, y, view: { ...view }, moved: false, before: chosen };
    if (view.scale > 1) canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", (e) => {
    if (!data?.x?.length) return;
    const [x, y] = at(e);
    if (pressed && view.scale > 1 && (pressed.moved || Math.hypot(x - pressed.x, y - pressed.y) > 4)) {
      pressed.moved = true;
      view.x = pressed.view.x + (x - pressed.x) / (size.w - 2 * EDGE);
      view.y = pressed.view.y + (y - pressed.y) / (size.h - 2 * EDGE);
      keep();
      return;
    }
    if (e.pointerType === "mouse") choose(nearest(x, y, REACH));
  });
  canvas.addEventListener("pointerup", (e) => {
    const was = pressed;
    pressed = null;
    if (!was || was.moved || !data?.x?.length) return;
    const i = nearest(...at(e), e.pointerType === "mouse" ? REACH : 2 * REACH);
    // A finger has no hover: its first tap shows the title, the second goes there.
    if (i >= 0 && (e.pointerType === "mouse" || i === was.before)) open(i);
    else choose(i);
  });
  canvas.addEventListener("pointercancel", () => { pressed = null; });
  canvas.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse" && document.activeElement !== canvas) choose(-1); });
  // A pinch on a touchpad comes as a wheel with Ctrl; a plain wheel scrolls the page.
  canvas.addEventListener("wheel", (e) => {
    if (!e.ctrlKey || !data?.x?.length) return;
    e.preventDefault();
    zoom(Math.exp(-e.deltaY / 100), at(e));
  }, { passive: false });

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (e) => {
    if (!data?.x?.length || e.ctrlKey || e.altKey || e.metaKey) return;
    const step = STEPS[e.key];
    if (step) go(...step);
    else if (e.key === "Enter" && chosen >= 0) open(chosen);
    else if (e.key === "Escape") choose(-1);
    else if (e.key === "+" || e.key === "=") zoom(1.5);
    else if (e.key === "-") zoom(1 / 1.5);
    else if (e.key === "0") all();
    else return;
    e.preventDefault();
  });

  // go chooses the nearest document in a direction, of those more ahead than aside; at first, the best hit or the
  // one in the middle.
  function go(dx, dy) {
    if (chosen < 0) {
      const first = data.id.findIndex((id) => rankOf.get(id) === 1);
      choose(first >= 0 && seen(first) ? first : nearest(size.w / 2, size.h / 2, 1e6));
      return;
    }
    const x = xs[chosen], y = ys[chosen];
    let best = -1, least = Infinity;
    for (let i = 0; i < data.x.length; i++) {
      if (i === chosen || !seen(i)) continue;
      const ahead = (xs[i] - x) * dx + (ys[i] - y) * dy;
      const aside = Math.abs((xs[i] - x) * dy) + Math.abs((ys[i] - y) * dx);
      if (ahead <= 0.5 || aside > ahead) continue;
      const d = ahead + 2 * aside;
      if (d < least && xs[i] > 0 && xs[i] < size.w && ys[i] > 0 && ys[i] < size.h) { least = d; best = i; }
    }
    if (best >= 0) choose(best);
  }

  for (const b of box.querySelectorAll("[data-zoom]")) {
    b.addEventListener("click", () => ({ in: () => zoom(1.6), out: () => zoom(1 / 1.6), all })[b.dataset.zoom]());
  }
  // A result under the pointer is shown on the map.
  for (const li of document.querySelectorAll(".list > li")) {
    const rank = Number(li.id.slice("hit-".length));
    li.addEventListener("pointerenter", () => { if (data?.id) choose(data.id.indexOf(hits[rank - 1])); });
  }
  new ResizeObserver(() => { if (data?.x?.length) resize(); }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (data?.x?.length) resize(); });

  status.textContent = "drawing …";
  load();
}
