// Tracks along a sequence: zoom and pan over what stands in the page as JSON. Text is only ever set as text.
"use strict";
for (const box of document.querySelectorAll(".track")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const count = data.lines[0].values.length;
  const PANEL = 110, GAP = 24, LEFT = 52, LETTERS = 26, NEAREST = Math.min(count, 30);
  let from = 0, to = count; // values that are shown
  let frame = null; // the picture that shows them

  const element = (tag, parent, set) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(set)) made.setAttribute(key, value);
    return parent.appendChild(made);
  };
  const write = (parent, words, set) => { element("text", parent, set).textContent = words; };
  const place = (i) => data.start + i * data.bin + 1;
  const told = (value) => (value === null || value === undefined ? "–" : value.toPrecision(4));

  for (const line of data.lines) {
    const known = [...line.values, ...(line.observed || [])].filter((v) => v !== null);
    line.low = known.reduce((a, b) => Math.min(a, b), Infinity);
    line.high = known.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!(line.high > line.low)) { line.low -= 0.5; line.high += 0.5; }
    if (!Number.isFinite(line.low)) { line.low = 0; line.high = 1; }
  }

  const bar = document.createElement("div");
  bar.className = "buttons";
  const show = (a, b) => {
    const size = Math.max(NEAREST, Math.min(count, Math.round(b - a)));
    from = Math.max(0, Math.min(count - size, Math.round(a)));
    to = from + size;
    draw();
  };
  const zoom = (factor, at = 0.5) => {
    const size = (to - from) * factor, middle = from + at * (to - from);
    show(middle - at * size, middle + (1 - at) * size);
  };
  const move = (share) => show(from + share * (to - from), to + share * (to - from));
  const actions = [
    ["◀", "Back", () => move(-0.5)], ["▶", "On", () => move(0.5)], ["+", "Closer", () => zoom(0.5)],
    ["−", "Farther", () => zoom(2)], ["all", "The whole region", () => show(0, count)],
  ];
  for (const [sign, what, act] of actions) {
    const button = bar.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = sign;
    button.title = what;
    button.setAttribute("aria-label", what);
    button.addEventListener("click", act);
  }
  const range = bar.appendChild(document.createElement("span"));
  const canvas = document.createElement("div");
  const words = document.createElement("div");
  words.className = "told";
  box.querySelector(".still").remove();
  box.append(bar, canvas, words);

  // One value a column of pixels at most: the mean of those that fall on it, and their least and largest.
  function columns(values, pixels) {
    const size = to - from, width = Math.max(1, size / pixels), found = [];
    for (let c = 0; c * width < size; c++) {
      const a = from + Math.floor(c * width), b = Math.max(a + 1, from + Math.floor((c + 1) * width));
      let sum = 0, n = 0, low = Infinity, high = -Infinity;
      for (let i = a; i < Math.min(b, to); i++) {
        const v = values[i];
        if (v === null) continue;
        sum += v; n += 1; low = Math.min(low, v); high = Math.max(high, v);
      }
      found.push(n ? { x: c * width + width / 2, mean: sum / n, low, high } : null);
    }
    return found;
  }

  function draw() {
    const width = Math.max(280, canvas.clientWidth), inside = width - LEFT - 8, size = to - from;
    const near = size * 9 <= inside && data.bin === 1;
    const height = data.lines.length * (PANEL + GAP) + LETTERS + 14;
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const x = (at) => LEFT + (inside * at) / size;
    data.lines.forEach((line, row) => {
      const top = row * (PANEL + GAP) + GAP - 6;
      const y = (v) => top + (PANEL * (line.high - v)) / (line.high - line.low);
      const grid = element("g", picture, { class: "grid" });
      for (const v of [line.low, (line.low + line.high) / 2, line.high]) {
        element("path", grid, { d: `M${LEFT} ${y(v)}H${LEFT + inside}` });
        write(picture, v.toPrecision(3), { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" });
      }
      write(picture, line.name, { x: LEFT, y: top - 5, class: line.observed ? "axis c0" : "axis" });
      if (line.observed) write(picture, "observed", { x: width - 8, y: top - 5, class: "axis c1", "text-anchor": "end" });
      const kinds = line.observed ? [[line.observed, "c1"], [line.values, "c0"]] : [[line.values, "c0"]];
      for (const [values, kind] of kinds) {
        const found = columns(values, inside / 1.5);
        const runs = [[]];
        for (const one of found) one ? runs[runs.length - 1].push(one) : runs.push([]);
        for (const run of runs) {
          if (!run.length) continue;
          if (size > inside / 1.5) {
            const edge = run.map((p) => `${x(p.x).toFixed(1)},${y(p.high).toFixed(1)}`);
            const back = run.map((p) => `${x(p.x).toFixed(1)},${y(p.low).toFixed(1)}`).reverse();
            element("polygon", picture, { class: `band ${kind}`, points: edge.concat(back).join(" ") });
          }
          const points = run.map((p) => `${x(p.x).toFixed(1)},${y(p.mean).toFixed(1)}`).join(" ");
          element("polyline", picture, { class: `line ${kind}`, points });
        }
      }
    });
    const foot = data.lines.length * (PANEL + GAP) + 12;
    if (near) {
      for (let i = from; i < to; i++) {
        const base = data.bases[i];
        write(picture, base, { x: x(i - from + 0.5), y: foot, "text-anchor": "middle", class: `base ${base}` });
      }
    }
    const ticks = Math.max(2, Math.floor(inside / 130));
    for (let t = 0; t <= ticks; t++) {
      const i = Math.min(to - 1, from + Math.round((t * size) / ticks));
      const anchor = t === 0 ? "start" : t === ticks ? "end" : "middle";
      write(picture, place(i).toLocaleString("en"), { x: x(i - from + 0.5), y: foot + 18, "text-anchor": anchor });
    }
    canvas.replaceChildren(picture);
    range.textContent = `${place(from).toLocaleString("en")} – ${(place(to) - 1).toLocaleString("en")}`;
    frame = { picture, width, inside };
  }

  // Where an event is, as a share of what is shown.
  const at = (event) => {
    const seen = frame.picture.getBoundingClientRect();
    return ((event.clientX - seen.left) * (frame.width / seen.width) - LEFT) / frame.inside;
  };
  const within = (share) => Math.min(1, Math.max(0, share));
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = { share: at(event), from, to };
    canvas.setPointerCapture(event.pointerId);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  canvas.addEventListener("pointermove", (event) => {
    const share = at(event);
    if (held) {
      const shift = (held.share - share) * (held.to - held.from);
      if (Math.round(held.from + shift) !== from) show(held.from + shift, held.to + shift);
      return;
    }
    const i = from + Math.floor(share * (to - from));
    if (i < from || i >= to) return;
    const parts = data.lines.map((line) =>
      `${line.name} ${told(line.values[i])}` + (line.observed ? ` (observed ${told(line.observed[i])})` : ""));
    const base = data.bin === 1 ? ` ${data.bases[i]}` : "";
    words.textContent = `position ${place(i).toLocaleString("en")}${base}: ${parts.join("; ")}`;
  });
  canvas.addEventListener("dblclick", (event) => zoom(0.4, within(at(event))));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, within(at(event)));
  }, { passive: false });

  box.addEventListener("keydown", (event) => {
    const act = { ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), "+": () => zoom(0.5), "-": () => zoom(2) }[event.key];
    if (act) { act(); event.preventDefault(); }
  });
  let drawn = 0;
  new ResizeObserver(() => { if (canvas.clientWidth !== drawn) { drawn = canvas.clientWidth; draw(); } }).observe(canvas);
  words.textContent = "Drag to move, double-click or Ctrl and wheel to come closer; a position tells its values.";
  draw();
}
