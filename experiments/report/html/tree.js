// A search as a tree: a column a chunk, a card a candidate. Cards are placed so that children stand beside their parents.
const TOP = 34, ACROSS = 38, DOWN = 20, NUMBERS = 94; // pixels: over the cards, between them, and of a card's numbers
const ROUTES = {
  discard: { sign: "✕", done: "discarded" },
  ema_sink: { sign: "≈", done: "averaged into the newest sink" },
  append_sink: { sign: "+", done: "appended as a sink" },
};
const SVG = "http://www.w3.org/2000/svg";
const tooltip = document.getElementById("numbers");

function draw(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const figures = (value) => (value === null ? "–" : value.toFixed(3));
const fate = (node) => (node.chosen ? "chosen" : node.kept ? "kept" : node.pruned_after !== null ? "pruned" : "dropped");
const FATES = {
  chosen: "part of the chosen video",
  kept: "kept, and lost later",
  dropped: "finished, and not kept",
  pruned: "given up at a preview",
};

/** Returns the sizes of a card and of its picture, which is as wide as it is to fit in. */
function cardOf(cell) {
  const ratio = cell ? cell.width / cell.height : 1;
  const height = Math.min(68, 100 / ratio);
  return { width: NUMBERS + height * ratio, height: 80, thumb: { width: height * ratio, height } };
}

/** Returns the nodes of a stored search with what drawing needs: their places, and ranks in their levels. */
function grown(search, card) {
  const nodes = search.nodes.map((values, index) => ({
    index, ...Object.fromEntries(search.fields.map((name, place) => [name, values[place]])),
  }));
  const columns = search.levels.map(({ chunk }) => nodes.filter((node) => node.chunk === chunk));
  const most = Math.max(...columns.map((column) => column.length));
  columns.forEach((column, place) => {
    column.sort((a, b) => (nodes[a.parent]?.slot ?? 0) - (nodes[b.parent]?.slot ?? 0) || a.index - b.index);
    const ranked = column.filter((node) => node.row !== null).sort((a, b) => b.fused - a.fused);
    column.forEach((node, slot) => {
      node.slot = slot + (most - column.length) / 2;
      node.x = place * (card.width + ACROSS);
      node.y = TOP + node.slot * (card.height + DOWN);
      node.rank = ranked.indexOf(node) + 1; // 0 for one that was given up: scores of previews are not compared with others
      node.standing = node.rank ? `${node.rank} of ${ranked.length}` : `given up after ${node.pruned_after} passes`;
    });
  });
  const values = nodes.filter((node) => node.rank).map((node) => node.fused);
  const low = Math.min(...values), high = Math.max(...values);
  for (const node of nodes) node.place = !node.rank ? 0 : high > low ? (node.fused - low) / (high - low) : 1;
  return { nodes, columns, height: TOP + most * (card.height + DOWN) };
}

function pathTo(node, nodes) {
  const path = [];
  for (let one = node; one; one = nodes[one.parent]) path.unshift(one);
  return path;
}

class TreeView {
  constructor(place, trial, search) {
    this.trial = trial;
    this.search = search;
    this.cell = search.cell;
    this.size = cardOf(this.cell);
    this.isSmall = this.cell?.height <= 64; // shown with hard pixels
    Object.assign(this, grown(search, this.size));
    this.sheets = new Map(); // images by chunk
    this.plane = make("div", { class: "plane", role: "group", "aria-label": `Search tree of ${DATA.trials[trial].policy}` });
    this.plane.style.width = `${search.levels.length * (this.size.width + ACROSS) - ACROSS}px`;
    this.plane.style.height = `${this.height + 52}px`;
    this.cards = this.nodes.map((node) => this.card(node));
    this.edges = this.drawEdges();
    this.plane.append(...this.columns.flat().map((node) => this.cards[node.index]));
    this.markLeft();
    this.drawLevels();
    this.player = new ClipPlayer(this);
    place.append(...this.notices(), make("div", { class: "plane-scroll" }, this.plane), this.player.element, legend());
    this.cards[this.columns[0][0].index].tabIndex = 0;
    if (this.cell) this.show();
  }

  notices() {
    const unclear = this.search.unclear;
    const texts = this.search.note ? [`${this.search.note} Cards are without pictures.`] : [];
    if (unclear) texts.push(`${unclear} candidates go on from one of several with the same seeds; the likeliest is drawn.`);
    return texts.map((text) => make("p", { class: "notice" }, text));
  }

  card(node) {
    const thumb = make("span", { class: this.isSmall ? "thumb small" : "thumb" });
    const { width, height } = this.size.thumb;
    Object.assign(thumb.style, { width: `${width}px`, height: `${height}px` });
    if (!this.cell || node.row === null) {
      thumb.classList.add("none");
      thumb.append(node.row === null ? `${node.pruned_after} passes` : "–");
    }
    const scores = make("span", { class: "scores" });
    for (const name of ["short", "long", "fused"]) {
      scores.append(make("span", {}, name), make("b", { class: name }, figures(node[name])));
    }
    scores.lastChild.style.setProperty("--place", node.place); // a bar from the search's worst to its best
    if (node.leaving !== null) {
      scores.append(make("span", { class: `route ${node.route}` }, `${ROUTES[node.route].sign} chunk ${node.leaving}`));
    }
    const card = make(
      "button",
      {
        type: "button", class: `node ${fate(node)}`, "data-node": node.index, tabindex: -1,
        "aria-label": `Chunk ${node.chunk}, ${node.standing}, ${FATES[fate(node)]}: ` +
          `short ${figures(node.short)}, long ${figures(node.long)}, fused ${figures(node.fused)}`,
        onclick: () => this.player.choose(node),
        onmouseenter: () => this.explain(node), onmouseleave: () => this.forget(),
        onfocus: () => { if (card.matches(":focus-visible")) this.explain(node); }, onblur: () => this.forget(),
        onkeydown: (event) => this.walk(event, node),
      },
      thumb, scores,
    );
    Object.assign(card.style, {
      left: `${node.x}px`, top: `${node.y}px`, width: `${this.size.width}px`, height: `${this.size.height}px`,
    });
    return card;
  }

  drawEdges() {
    const svg = draw("svg", { width: "100%", height: "100%", "aria-hidden": "true" });
    this.plane.append(svg);
    const order = { pruned: 0, dropped: 1, kept: 2, chosen: 3 };
    const edges = [];
    for (const node of [...this.nodes].sort((a, b) => order[fate(a)] - order[fate(b)])) {
      const parent = this.nodes[node.parent];
      if (!parent) continue;
      const from = [parent.x + this.size.width, parent.y + this.size.height / 2], to = [node.x, node.y + this.size.height / 2];
      const middle = (from[0] + to[0]) / 2;
      const d = `M ${from} C ${middle} ${from[1]} ${middle} ${to[1]} ${to}`;
      edges[node.index] = draw("path", { d, class: `edge ${fate(node)}`, "data-from": parent.index, "data-to": node.index });
      svg.append(edges[node.index]);
    }
    return edges;
  }

  /** Marks the chunks of the chosen video that left the window, by what became of them. */
  markLeft() {
    const chosen = this.nodes.filter((node) => node.chosen);
    for (const node of chosen) {
      if (node.leaving === null) continue;
      const gone = pathTo(node, this.nodes).find((one) => one.chunk === node.leaving);
      if (!gone) continue;
      const { sign, done } = ROUTES[node.route];
      const text = { discard: "discarded", ema_sink: "averaged", append_sink: "appended" }[node.route];
      this.cards[gone.index].append(make("span", { class: `left ${node.route}`, title: `${done} before chunk ${node.chunk}` }, `${sign} ${text}`));
      gone.left = `${done} before chunk ${node.chunk}`;
    }
  }

  drawLevels() {
    const most = Math.max(...this.search.levels.map((level) => level.passes)) || 1;
    this.search.levels.forEach((level, place) => {
      const left = `${place * (this.size.width + ACROSS)}px`;
      const name = make("span", { class: "chunk-name" }, `chunk ${level.chunk}`);
      name.style.left = left;
      const bar = make("i");
      bar.style.width = `${Math.max(3, (this.size.width * level.passes) / most)}px`;
      const cost = make("span", { class: "level" }, bar, `${+level.passes.toFixed(1)} passes · ${level.seconds.toFixed(2)} s`);
      Object.assign(cost.style, { left, top: `${this.height + 2}px`, width: `${this.size.width}px` });
      this.plane.append(name, cost);
    });
  }

  /** Puts the pictures in: a frame from the middle of each candidate's chunk. */
  async show() {
    const { width, height } = this.size.thumb;
    await Promise.all(this.columns.map(async (column) => {
      const sheet = await this.sheet(column[0].chunk);
      const columns = Math.round(sheet.naturalWidth / this.cell.width), rows = Math.round(sheet.naturalHeight / this.cell.height);
      for (const node of column) {
        if (node.row === null) continue;
        Object.assign(this.cards[node.index].querySelector(".thumb").style, {
          backgroundImage: `url("${sheet.src}")`,
          backgroundSize: `${columns * width}px ${rows * height}px`,
          backgroundPosition: `${-Math.floor(columns / 2) * width}px ${-node.row * height}px`,
        });
      }
    }));
  }

  sheet(chunk) {
    if (!this.sheets.has(chunk)) this.sheets.set(chunk, this.loadSheet(chunk));
    return this.sheets.get(chunk);
  }

  async loadSheet(chunk) {
    const image = new Image();
    image.src = await clipUrl(this.trial, chunk);
    await image.decode();
    return image;
  }

  explain(node) {
    for (const one of pathTo(node, this.nodes)) this.edges[one.index]?.classList.add("traced");
    const rows = [
      ["short", figures(node.short)], ["long", figures(node.long)],
      ["fused", node.rank ? `${figures(node.fused)}, ${node.standing}` : figures(node.fused)],
      ...(node.truth === null ? [] : [["truth", figures(node.truth)]]),
      ...(node.pruned_after === null ? [] : [["given up after", `${node.pruned_after} passes; scores of a preview`]]),
      ...(node.leaving === null ? [] : [[`chunk ${node.leaving}`, ROUTES[node.route].done]]),
      ...(node.left ? [["this chunk", node.left]] : []),
      ["cost", `${+node.passes.toFixed(2)} passes, ${(1000 * node.seconds).toFixed(0)} ms`],
      ["seed", node.seed],
    ];
    tooltip.replaceChildren(
      make("strong", {}, `Chunk ${node.chunk}: ${FATES[fate(node)]}`),
      make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    );
    tooltip.hidden = false;
    const card = this.cards[node.index].getBoundingClientRect(), own = tooltip.getBoundingClientRect();
    const below = card.bottom + 10 + own.height < innerHeight;
    tooltip.style.left = `${Math.max(8, Math.min(card.left, innerWidth - own.width - 8))}px`;
    tooltip.style.top = `${below ? card.bottom + 8 : Math.max(8, card.top - own.height - 8)}px`;
  }

  forget() {
    tooltip.hidden = true;
    for (const edge of this.edges) edge?.classList.remove("traced");
  }

  /** Walks with the arrow keys: to the parent, to the best child, up and down in the level. */
  walk(event, node) {
    const column = this.columns.find((one) => one.includes(node)), place = column.indexOf(node);
    const children = this.nodes.filter((one) => one.parent === node.index).sort((a, b) => (a.rank || Infinity) - (b.rank || Infinity));
    const next = {
      ArrowLeft: this.nodes[node.parent], ArrowRight: children[0], ArrowUp: column[place - 1], ArrowDown: column[place + 1],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    this.cards[node.index].tabIndex = -1;
    this.cards[next.index].tabIndex = 0;
    this.cards[next.index].focus({ focusVisible: true });
  }
}

/** Plays a candidate on a canvas: the chunks that lead to it and its own, or its own alone. */
class ClipPlayer {
  constructor(tree) {
    this.tree = tree;
    this.canvas = make("canvas", { width: tree.cell?.width ?? 64, height: tree.cell?.height ?? 64, class: tree.isSmall && "small" });
    this.text = make("p", { "aria-live": "polite" });
    this.button = make("button", { type: "button", disabled: true, onclick: () => this.toggle() }, "Play");
    this.alone = make("input", { type: "checkbox", onchange: () => this.node && this.choose(this.node) });
    this.element = make(
      "div", { class: "player" }, this.canvas, this.text,
      make("div", { class: "tools" }, this.button, make("label", { class: "field" }, this.alone, "this chunk only")),
    );
    this.say("Click a candidate to play it.");
    if (!tree.cell) this.element.querySelector(".tools").hidden = this.canvas.hidden = true;
    if (!tree.cell) this.say("Nothing to play: there are no clips.");
    this.turn = 0;
  }

  say(...parts) {
    this.text.replaceChildren(...parts);
  }

  async choose(node) {
    this.stop();
    this.node = node;
    if (!this.tree.cell) return;
    if (node.row === null) {
      this.say(make("strong", {}, `Chunk ${node.chunk}`), `, given up after ${node.pruned_after} passes: it was never finished, so there is nothing to play.`);
      return;
    }
    const path = this.alone.checked ? [node] : pathTo(node, this.tree.nodes);
    const turn = ++this.turn;
    const sheets = await Promise.all(path.map((one) => this.tree.sheet(one.chunk)));
    if (turn !== this.turn) return; // another one was chosen meanwhile
    this.frames = path.flatMap((one, place) => {
      const columns = Math.round(sheets[place].naturalWidth / this.tree.cell.width);
      return Array.from({ length: columns }, (_, column) => ({ node: one, sheet: sheets[place], column }));
    });
    this.say(
      make("strong", {}, `Chunk ${node.chunk}, ${node.standing}`),
      `: ${FATES[fate(node)]}. Short ${figures(node.short)}, long ${figures(node.long)}, fused ${figures(node.fused)}.`,
    );
    this.frame = 0;
    this.button.disabled = false;
    this.toggle();
  }

  toggle() {
    if (this.timer) return this.stop();
    this.button.textContent = "Pause";
    this.paint();
    this.timer = setInterval(() => {
      this.frame = (this.frame + 1) % this.frames.length;
      if (!this.canvas.isConnected) return this.stop();
      this.paint();
    }, 1000 / this.tree.cell.fps);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "Play";
    this.tree.plane.querySelector(".playing")?.classList.remove("playing");
  }

  paint() {
    const { node, sheet, column } = this.frames[this.frame];
    const { width, height } = this.tree.cell;
    this.canvas.getContext("2d").drawImage(sheet, column * width, node.row * height, width, height, 0, 0, width, height);
    const card = this.tree.cards[node.index];
    if (card.classList.contains("playing")) return;
    this.tree.plane.querySelector(".playing")?.classList.remove("playing");
    card.classList.add("playing");
  }
}

function legend() {
  const line = (kind, text) => {
    const svg = draw("svg", { "aria-hidden": "true" });
    svg.append(draw("path", { d: "M 0 4 H 26", class: `edge ${kind}` }));
    return make("span", {}, svg, text);
  };
  return make(
    "div", { class: "legend" },
    ...["chosen", "kept", "dropped", "pruned"].map((kind) => line(kind, FATES[kind])),
    ...Object.entries(ROUTES).map(([route, { sign, done }]) => make("span", {}, make("b", { class: route }, sign), `chunk ${done} as it leaves the window`)),
  );
}

const trees = new Map(); // views by trial

async function toggleTree(button, isOpen) {
  const trial = button.dataset.tree, place = document.getElementById(`tree-of-${trial}`);
  for (const other of button.parentElement.querySelectorAll("button")) {
    const isThis = other === button && isOpen;
    other.setAttribute("aria-expanded", isThis);
    document.getElementById(`tree-of-${other.dataset.tree}`).hidden = !isThis;
    if (!isThis) trees.get(other.dataset.tree)?.player.stop();
  }
  if (isOpen && !trees.has(trial)) {
    const search = JSON.parse((await block(`search-${trial}`)).textContent);
    if (!trees.has(trial)) trees.set(trial, new TreeView(place, trial, search));
  }
}

for (const button of document.querySelectorAll("[data-tree]")) {
  button.addEventListener("click", () => toggleTree(button, button.getAttribute("aria-expanded") !== "true"));
}
// The first row with a search shows at once what is behind the others' buttons.
const first = [...document.querySelector(".choices")?.querySelectorAll("button") ?? []].at(-1);
if (first) document.addEventListener("view", ({ detail }) => { if (detail === "videos" && !trees.size) toggleTree(first, true); });
