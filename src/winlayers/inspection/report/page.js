"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const root = document.documentElement;

  // -- light and dark --

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (name) => { root.dataset.theme = name; };
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => {
    setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  });

  // -- the tree: [name, files, [colour, bytes, ...], children or 0] --

  const colourClass = data.kind === "diff" ? (n) => `k${n}` : (n) => `c${n % 10}`;
  const grow = (packed, parent) => {
    const node = { name: packed[0], files: packed[1], parts: [], size: 0, parent, children: null };
    for (let i = 0; i < packed[2].length; i += 2) {
      node.parts.push([packed[2][i], packed[2][i + 1]]);
      node.size += packed[2][i + 1];
    }
    if (packed[3]) node.children = packed[3].map((child) => grow(child, node));
    return node;
  };
  const trees = { tree: grow(data.tree, null) };
  if (data.changes) trees.changes = grow(data.changes, null);

  // A diff's map shows change first: a directory with any is not grey.
  const weight = ([colour, size]) => (data.kind === "diff" && colour === 0 ? size / 1e6 : size);
  const mainColour = (node) =>
    node.parts.reduce((best, part) => (!best || weight(part) > weight(best) ? part : best), null)?.[0] ?? 0;

  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  const sizeText = (bytes) => {
    let value = bytes, unit = 0;
    while (value >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1; }
    return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
  };
  const shownName = (node) =>
    (node.name || `${node.files.toLocaleString("en")} smaller`).replace(/[\p{C}\p{Zl}\p{Zp}]/gu,
      (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
  const pathOf = (node) => {
    const parts = [];
    for (let n = node; n.parent; n = n.parent) parts.unshift(shownName(n));
    if (parts[0] === "Files") { parts[0] = ""; return parts.length > 1 ? parts.join("/") : "/"; }
    return parts.join("/") || shownName(node);
  };

  // -- squarified layout (Bruls, Huizing, van Wijk 2000) --

  const squarify = (nodes, x, y, w, h) => {
    const total = nodes.reduce((sum, node) => sum + node.size, 0);
    const placed = [];
    if (!total || w <= 0 || h <= 0) return placed;
    const scale = (w * h) / total;
    const queue = nodes.filter((node) => node.size > 0).map((node) => ({ node, area: node.size * scale }));
    const worst = (row, sum, side) => {
      let most = 0;
      for (const { area } of row) {
        most = Math.max(most, (side * side * area) / (sum * sum), (sum * sum) / (side * side * area));
      }
      return most;
    };
    let at = 0;
    while (at < queue.length) {
      const side = Math.min(w, h);
      const row = [queue[at]];
      let sum = queue[at].area;
      at += 1;
      while (at < queue.length) {
        const next = queue[at];
        if (worst([...row, next], sum + next.area, side) > worst(row, sum, side)) break;
        row.push(next);
        sum += next.area;
        at += 1;
      }
      const thick = sum / side;
      let along = 0;
      for (const { node, area } of row) {
        const length = area / thick;
        placed.push(w >= h ? { node, x, y: y + along, w: thick, h: length } : { node, x: x + along, y, w: length, h: thick });
        along += length;
      }
      if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    }
    return placed;
  };

  // -- drawing --

  const map = document.getElementById("treemap");
  const about = document.getElementById("about");
  const inside = document.getElementById("inside");
  const crumbs = document.getElementById("crumbs");
  let here = trees.tree;
  let current = "tree";
  let tiles = [];

  const make = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.appendChild(element);
    return element;
  };
  const html = (name, content, parent, className) => {
    const element = document.createElement(name);
    if (content !== null) element.textContent = content;
    if (className) element.className = className;
    parent.appendChild(element);
    return element;
  };
  const pen = document.createElement("canvas").getContext("2d");
  const widths = new Map();
  const widthOf = (c, font) => {
    const key = font + c;
    if (!widths.has(key)) {
      pen.font = font;
      widths.set(key, pen.measureText(c).width);
    }
    return widths.get(key);
  };
  const family = getComputedStyle(document.body).fontFamily;
  const fonts = { name: `11.5px ${family}`, bytes: `10.5px ${family}`, head: `600 11.5px ${family}` };
  const fitted = (words, width, kind) => {
    const font = fonts[kind];
    const characters = [...words];
    let used = 0, fits = 0, kept = 0;
    const dots = widthOf("…", font);
    for (const c of characters) {
      used += widthOf(c, font);
      if (used <= width) fits += 1;
      if (used + dots <= width) kept += 1;
    }
    if (fits === characters.length) return words;
    return kind === "bytes" || kept < 3 ? "" : `${characters.slice(0, kept).join("")}…`;
  };
  const label = (group, words, x, y, w, kind) => {
    const shown = fitted(words, w - 9, kind);
    if (shown) make("text", { x: x + 5, y: y + 14, class: kind }, group).textContent = shown;
  };

  const colouredRect = (group, node, x, y, w, h) => {
    make("rect", { x, y, width: Math.max(w, 0), height: Math.max(h, 0), class: colourClass(mainColour(node)) }, group);
  };

  const draw = (node, box, parent, depth) => {
    const { x, y, w, h } = box;
    if (w < 1.5 || h < 1.5) return;
    const open = node.children && w > 54 && h > 44 && depth < 5;
    const group = make("g", { class: `tile${open ? " folder" : ""}${node.name ? "" : " small"}` }, parent);
    if (open) {
      make("rect", { x, y, width: w, height: h, class: "back head" }, group);
      label(group, `${shownName(node)}  ${sizeText(node.size)}`, x, y + 1, w, "head");
      for (const inner of squarify(node.children, x + 3, y + 20, w - 6, h - 23)) {
        draw(inner.node, inner, group, depth + 1);
      }
    } else {
      colouredRect(group, node, x, y, w, h);
      if (h > 18) label(group, shownName(node), x, y, w, "name");
      if (h > 34) label(group, sizeText(node.size), x, y + 14, w, "bytes");
    }
    if (depth === 0) makeButton(group, node, box);
    else group.node = node;
  };

  const makeButton = (group, node, { x, y, w, h }) => {
    const kind = node.children ? "folder" : node.name ? "file" : "files";
    group.setAttribute("role", "button");
    group.setAttribute("tabindex", tiles.length ? "-1" : "0");
    group.setAttribute("aria-label", `${shownName(node)}, ${kind}, ${sizeText(node.size)}`);
    make("rect", { x: x + 1, y: y + 1, width: Math.max(w - 2, 0), height: Math.max(h - 2, 0), class: "hit" }, group);
    group.node = node;
    tiles.push({ group, node, cx: x + w / 2, cy: y + h / 2 });
    group.addEventListener("focus", () => tell(node));
  };

  const share = (node) => {
    const whole = trees[current].size;
    return whole ? `${((100 * node.size) / whole).toFixed(node.size / whole < 0.001 ? 3 : 1)} %` : "0 %";
  };
  const tell = (node) => {
    about.textContent = "";
    html("b", pathOf(node), about);
    const files = node.files === 1 && !node.children ? "" : `, ${node.files.toLocaleString("en")} files`;
    html("span", `${sizeText(node.size)} (${node.size.toLocaleString("en")} bytes), ${share(node)} of all${files}`, about);
    const parts = [...node.parts].sort((a, b) => b[1] - a[1]).slice(0, 4);
    if (parts.length) {
      html("br", null, about);
      html("span", parts.map(([c, size]) => `${data.colours[c]}: ${sizeText(size)}`).join(" · "), about, "quiet");
    }
  };

  const listInside = () => {
    inside.textContent = "";
    const most = here.children?.[0]?.size ?? here.size;
    for (const node of here.children ?? []) {
      const button = html("button", null, html("li", null, inside));
      button.type = "button";
      html("span", shownName(node) + (node.children ? "/" : ""), button, "name").title = pathOf(node);
      html("span", sizeText(node.size), button, "amount");
      const bar = make("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, button);
      let at = 0;
      for (const [colour, size] of node.parts) {
        const width = most ? (100 * size) / most : 0;
        make("rect", { x: at, width, height: 4, class: colourClass(colour) }, bar);
        at += width;
      }
      if (node.children) button.addEventListener("click", () => go(node, true));
      else button.setAttribute("aria-disabled", "true");
      button.addEventListener("mouseenter", () => tell(node));
      button.addEventListener("focus", () => tell(node));
    }
  };

  const listCrumbs = () => {
    crumbs.textContent = "";
    const path = [];
    for (let node = here; node; node = node.parent) path.unshift(node);
    path.forEach((node, number) => {
      if (number) html("span", "›", crumbs);
      const button = html("button", shownName(node), crumbs);
      button.type = "button";
      if (node === here) button.setAttribute("aria-current", "location");
      else button.addEventListener("click", () => go(node, true));
    });
  };

  const redraw = (focused) => {
    const { clientWidth: w, clientHeight: h } = map;
    map.textContent = "";
    tiles = [];
    const svg = make("svg", { width: w, height: h, viewBox: `0 0 ${w} ${h}` }, map);
    for (const box of squarify(here.children ?? [], 3, 3, w - 6, h - 6)) draw(box.node, box, svg, 0);
    if (focused && tiles.length) tiles[0].group.focus();
  };

  const go = (node, focused) => {
    if (!node.children) return;
    here = node;
    remember();
    listCrumbs();
    listInside();
    redraw(focused);
    tell(here);
  };

  // Where the map is stands in the address, so that it can be come back to and passed on.
  const rawPath = (node) => (node.parent ? [...rawPath(node.parent), node.name] : []);
  const remember = () => {
    const place = rawPath(here).map((name) => encodeURIComponent(name.toWellFormed?.() ?? name)).join("/");
    try { history.replaceState(null, "", place ? `#${current}/${place}` : "#"); } catch { /* not from here */ }
  };
  const remembered = () => {
    const [tree, ...names] = location.hash.slice(1).split("/");
    if (!(tree in trees)) return trees.tree;
    current = tree;
    let node = trees[tree];
    for (const name of names) {
      const below = node.children?.find((child) => encodeURIComponent(child.name.toWellFormed?.() ?? child.name) === name);
      if (!below?.children) break;
      node = below;
    }
    return node;
  };

  const nodeAt = (event) => {
    for (let element = event.target; element && element !== map; element = element.parentNode) {
      if (element.node) return element.node;
    }
    return null;
  };
  const deepest = (event) => {
    const found = document.elementsFromPoint(event.clientX, event.clientY);
    for (const element of found) {
      if (!map.contains(element) || element.classList.contains("hit")) continue;
      for (let up = element; up && up !== map; up = up.parentNode) if (up.node) return up.node;
    }
    return nodeAt(event);
  };
  map.addEventListener("mousemove", (event) => tell(deepest(event) ?? here));
  map.addEventListener("mouseleave", () => tell(here));
  map.addEventListener("click", (event) => { const node = nodeAt(event); if (node) go(node, false); });
  map.addEventListener("keydown", (event) => {
    const at = tiles.findIndex(({ group }) => group === document.activeElement);
    if (event.key === "Escape" || event.key === "Backspace") {
      if (here.parent) { event.preventDefault(); go(here.parent, true); }
    } else if ((event.key === "Enter" || event.key === " ") && at >= 0) {
      event.preventDefault();
      go(tiles[at].node, true);
    } else if (event.key.startsWith("Arrow") && at >= 0) {
      event.preventDefault();
      const next = neighbour(tiles[at], event.key);
      if (next) {
        tiles[at].group.setAttribute("tabindex", "-1");
        next.group.setAttribute("tabindex", "0");
        next.group.focus();
      }
    }
  });
  const neighbour = (from, key) => {
    const sideways = key === "ArrowLeft" || key === "ArrowRight";
    const sign = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
    let best = null, least = Infinity;
    for (const tile of tiles) {
      const ahead = sign * (sideways ? tile.cx - from.cx : tile.cy - from.cy);
      const aside = Math.abs(sideways ? tile.cy - from.cy : tile.cx - from.cx);
      const distance = ahead + 2 * aside;
      if (ahead > 1 && distance < least) { best = tile; least = distance; }
    }
    return best;
  };

  const switches = [...document.querySelectorAll("[data-tree]")];
  const pressed = () => {
    for (const button of switches) button.setAttribute("aria-pressed", String(button.dataset.tree === current));
  };
  for (const button of switches) {
    button.addEventListener("click", () => {
      current = button.dataset.tree;
      pressed();
      go(trees[current], false);
    });
  }
  go(remembered(), false);
  pressed();
  new ResizeObserver(() => redraw(false)).observe(map);

  // -- filters of the list of changes --

  const search = document.getElementById("search");
  if (search) {
    const rows = [...document.querySelectorAll("table.changes tbody tr")].map((row) => ({
      row, path: row.querySelector(".path").textContent.toLowerCase(), is: new Set(row.dataset.is.split(" ")),
    }));
    const chips = [...document.querySelectorAll("[data-filter]")];
    const count = document.getElementById("shown");
    const filter = () => {
      const words = search.value.toLowerCase();
      const wanted = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.filter);
      let shown = 0;
      for (const { row, path, is } of rows) {
        const fits = path.includes(words) && (!wanted.length || wanted.some((name) => is.has(name)));
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    };
    search.addEventListener("input", filter);
    for (const chip of chips) {
      chip.addEventListener("click", () => {
        chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") === "true" ? "false" : "true");
        filter();
      });
    }
    filter();
  }
  root.dataset.ready = "yes";
})();
