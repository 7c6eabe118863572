// Who sends to whom. Follows common.js; what stands where is decided in topology.py, and comes when it has changed.
const TIP = 9;
const LABELS = 24; // arrows whose rate is written
const ROOM = 25; // letters below the name of a node
const WORST = ["FAILED", "TERMINATING", "DEACTIVATED", "ACTIVE", "LAUNCHED", "CREATED", "TERMINATED"];
const NODE_ICON = { outside: "M1 5h5M4 2.5L6.8 5L4 7.5M8.5 1v8", router: "M5 .5L9.5 5L5 9.5L.5 5z", many: "M.5 2.5h7v7h-7zM2.5 .5h7v7" };

/** How thick an arrow is; topology.py has the same. */
const thickness = (rate) => Math.min(1.2 + 1.1 * Math.log10(1 + rate), 7);

function worst(states) {
  return WORST.find((state) => states[STATES.indexOf(state)]) ?? null;
}

/** "98 active · 2 failed" */
function inWords(states) {
  return STATES.map((state, i) => (states[i] ? `${count(states[i])} ${LOOK[state].word}` : ""))
    .filter(Boolean)
    .join(" · ");
}

function shortened(name) {
  return name.length <= 18 ? name : `${name.slice(0, 10)}…${name.slice(-7)}`;
}

const rateWords = (rate) => (rate === null ? "" : ` · ${perSecond(rate)}/s`);

function topology(shared) {
  return (view) => {
    let graph = null;
    let structure = -1;
    let built = -1;
    let nodes = new Map(); // key: what is drawn for it
    let arrows = [];
    let said = ""; // the numbers below, as they stand there
    const own = view.root.getRootNode(); // of a page, or of a shadow
    const summary = h("span", { class: "pdc-sum" });
    const states = h("span");
    const leftOut = h("span");
    const arrange = h("button", { type: "button", "data-verb": "arrange", title: "find new places for all nodes" }, "Arrange");
    view.head.append(summary, states, leftOut, h("span", { class: "pdc-grow" }), arrange);
    view.on(arrange, "click", () => view.command("arrange", "all"));
    const picture = h("div", { class: "pdc-graph" });
    const quiet = h("div", { class: "pdc-quiet" });
    const detail = h("div", { class: "pdc-detail", role: "status" });
    const empty = h("div", { class: "pdc-empty" });
    view.body.append(empty, picture, quiet, detail);
    const write = {
      summary: text(summary),
      states: text(states),
      leftOut: text(leftOut),
      off: field((off) => (arrange.disabled = off)),
      why: attribute(arrange, "title"),
    };
    view.on(view.root, "keydown", keyed);
    view.on(picture, "click", (event) => event.target.closest(".pdc-node") || choose(null));
    shared.views.add(view);
    return { arrived, draw, close: () => shared.views.delete(view) };

    function arrived(content) {
      if (content.graph) {
        graph = content.graph;
        structure = content.structure;
      }
      return structure === content.structure;
    }

    // -- what is chosen: the same in all views of the widget

    function choose(key) {
      shared.chosen = key;
      for (const one of shared.views) one.redraw();
    }

    function pressed(key, kind) {
      const { open } = view.frame.content;
      if (kind === "many" && key !== "+" && view.acts) {
        view.set("open", open.includes(key) ? open.filter((one) => one !== key) : [...open, key]);
      }
      choose(shared.chosen === key && kind !== "many" ? null : key);
    }

    function keyed(event) {
      const at = event.target.closest?.("[data-key]");
      if (event.key === "Escape" && shared.chosen !== null) return choose(null);
      if (!at) return;
      if ((event.key === "Enter" || event.key === " ") && at.tagName !== "BUTTON") {
        event.preventDefault();
        return pressed(at.dataset.key, at.dataset.kind);
      }
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault();
      const next = nearest(at.dataset.key, way);
      if (next) next.el.focus();
    }

    /** The next node in a direction. */
    function nearest(key, [x, y]) {
      const from = nodes.get(key)?.at;
      let best = null;
      let least = Infinity;
      if (!from) return null;
      for (const node of nodes.values()) {
        if (!node.at) continue;
        const along = (node.at[0] - from[0]) * x + (node.at[1] - from[1]) * y;
        const beside = Math.abs((node.at[0] - from[0]) * y) + Math.abs((node.at[1] - from[1]) * x);
        if (along > 1 && along + 2 * beside < least) [best, least] = [node, along + 2 * beside];
      }
      return best;
    }

    // -- what is there

    function build() {
      const focused = own.activeElement?.closest?.("[data-key]")?.dataset.key;
      const width = graph.view[2];
      const image = shape("svg", { viewBox: graph.view.join(" "), role: "group", "aria-label": "Who sends to whom" });
      image.style.maxWidth = `${width}px`;
      image.style.minWidth = `${Math.round(width * 0.8)}px`;
      for (const { hull, name, at } of graph.groups) {
        const frame = shape("g", { class: "pdc-group" }, shape("path", { d: hull }));
        frame.append(shape("text", { x: at[0], y: at[1] }, name));
        image.append(frame);
      }
      arrows = graph.arrows.map(newArrow);
      image.append(...arrows.map(({ el }) => el));
      nodes = new Map();
      const names = new Map(graph.nodes.map((node) => [node.key, node.name]));
      for (const node of graph.nodes) if (node.at || node.key !== "") nodes.set(node.key, node.at ? newNode(node) : newChip(node));
      const drawn = [...nodes.values()];
      image.append(...drawn.filter(({ at }) => at).map(({ el }) => el));
      image.append(...arrows.map(({ label }) => label));
      for (const arrow of arrows) [arrow.from, arrow.to] = [names.get(arrow.source), names.get(arrow.target)];
      picture.replaceChildren(...(graph.arrows.length ? [image] : []));
      const chips = drawn.filter(({ at }) => !at).map(({ el }) => el);
      quiet.replaceChildren(...(chips.length ? [h("span", {}, "no traffic"), ...chips] : []));
      quiet.hidden = !chips.length;
      if (focused !== undefined) nodes.get(focused)?.el.focus();
      if (shared.chosen !== null && !nodes.has(shared.chosen)) shared.chosen = null;
      built = structure;
    }

    function newArrow({ source, target, path, tip, label: [x, y], free }) {
      const line = shape("path", { d: path, class: "pdc-line" });
      const head = shape("path", { transform: `translate(${tip[0]} ${tip[1]}) rotate(${tip[2]})`, class: "pdc-head-of" });
      const words = shape("title");
      const el = shape("g", { class: "pdc-arrow", "data-source": source, "data-target": target }, words, line, head);
      const label = shape("text", { x, y, class: "pdc-rate", "aria-hidden": "true" });
      return {
        source,
        target,
        el,
        label,
        free,
        words: text(words),
        rate: text(label),
        lit: field((lit) => {
          el.classList.toggle("pdc-lit", lit === true);
          el.classList.toggle("pdc-dim", lit === false);
          label.classList.toggle("pdc-dim", lit === false);
        }),
        broad: field((broad) => {
          const half = 3.5 + 0.6 * broad;
          line.setAttribute("stroke-width", broad.toFixed(1));
          head.setAttribute("d", `M0 0L${-TIP} ${-half}V${half}z`);
        }),
        idle: field((idle) => el.classList.toggle("pdc-idle", idle)),
      };
    }

    function newNode({ key, name, kind, note, kernels, at }) {
      const [wide, high] = graph.box;
      const left = at[0] - wide / 2;
      const top = at[1] - high / 2;
      const rx = kind === "router" ? high / 2 : 7;
      const box = (attributes) => shape("rect", { x: left, y: top, width: wide, height: high, rx, ...attributes });
      const fill = shape("rect", { class: "pdc-fill", x: left + 1, y: top + 1, width: 0, height: high - 2, rx: rx - 1 });
      const icon = shape("path", { transform: `translate(${left + 11} ${top + 9.5})` });
      const below = shape("text", { class: "pdc-below", x: left + 11, y: at[1] + 14 });
      const times = kind === "many" ? ` ×${short(kernels)}` : "";
      const title = shape("text", { class: "pdc-name", x: left + 27, y: at[1] - 4 }, shortened(name) + times);
      const el = shape("g", {
        class: "pdc-node",
        role: "button",
        tabindex: 0,
        "data-key": key,
        "data-kind": kind,
        "data-name": name,
      });
      if (kind === "many") el.append(box({ x: left + 6, y: top - 5 }), box({ x: left + 3, y: top - 2.5 }));
      el.append(shape("title", {}, name), box({ class: "pdc-box" }), fill, icon, title, below);
      view.on(el, "click", () => pressed(key, kind));
      return {
        ...common(el, { key, name, kind, note, kernels }),
        at,
        below: text(below),
        icon: attribute(icon, "d"),
        fill: field((full) => {
          fill.setAttribute("width", (full * (wide - 2)).toFixed(1));
          fill.classList.toggle("pdc-high", full >= 0.8);
        }),
      };
    }

    /** One that has neither sent nor got anything. */
    function newChip({ key, name, kind, note, kernels }) {
      const icon = shape("path");
      const words = h("span");
      const times = kind === "many" ? ` ×${count(kernels)}` : "";
      const el = h("button", { type: "button", class: "pdc-chip", "data-key": key, "data-kind": kind, "data-name": name });
      el.append(shape("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, icon), shortened(name) + times, words);
      view.on(el, "click", () => pressed(key, kind));
      const below = text(words);
      return {
        ...common(el, { key, name, kind, note, kernels }),
        at: null,
        below: (value) => below(` ${value}`),
        icon: attribute(icon, "d"),
        fill: () => {},
      };
    }

    function common(el, node) {
      return {
        ...node,
        el,
        tone: attribute(el, "data-tone"),
        label: attribute(el, "aria-label"),
        chosen: attribute(el, "aria-pressed"),
        opened: attribute(el, "aria-expanded"),
        dim: field((dim) => el.classList.toggle("pdc-dim", dim)),
      };
    }

    // -- what changes

    function draw() {
      if (built !== structure) build();
      const { content } = view.frame;
      const chosen = shared.chosen;
      write.off(!view.acts);
      write.why(view.acts ? "find new places for all nodes" : view.idle);
      const total = content.sent.reduce((sum, n) => sum + n, 0);
      const kernels = `${count(content.kernels)} ring kernel${content.kernels === 1 ? "" : "s"}`;
      write.summary(`${kernels} · ${count(total)} message${total === 1 ? "" : "s"}`);
      write.states(inWords(STATES.map((_, i) => content.nodes.reduce((sum, node) => sum + node.states[i], 0))));
      write.leftOut(content.leftOut ? `${count(content.leftOut)} more arrows with fewer messages` : "");
      empty.hidden = content.kernels > 0 && arrows.length > 0;
      picture.hidden = !arrows.length;
      if (!content.kernels) empty.replaceChildren("No ring kernels yet: ", h("code", {}, "await runtime.launch(…)"));
      else if (!arrows.length) empty.replaceChildren("Nobody has sent anything yet: ", h("code", {}, "await runtime.send(…)"));

      const least = content.rates.filter((_, i) => arrows[i].free).sort((a, b) => b - a)[LABELS - 1] ?? 0;
      const near = new Set([chosen]);
      arrows.forEach((arrow, i) => {
        const rate = content.rates[i];
        const sent = content.sent[i];
        const lit = chosen === null ? null : arrow.source === chosen || arrow.target === chosen;
        if (lit) near.add(arrow.source).add(arrow.target);
        arrow.broad(thickness(rate ?? 0));
        arrow.idle(!rate);
        arrow.lit(lit);
        arrow.words(`${arrow.from} → ${arrow.to}: ${count(sent)} message${sent === 1 ? "" : "s"}${rateWords(rate)}`);
        arrow.rate(rate && (lit || (arrow.free && rate >= 0.05 && rate >= least)) ? `${perSecond(rate)}/s` : "");
      });
      graph.nodes.forEach(({ key }, i) => {
        const node = nodes.get(key);
        if (!node) return;
        const now = content.nodes[i];
        const state = worst(now.states);
        const words = below(node, now, state);
        node.tone(state ? LOOK[state].tone : "none");
        node.icon(NODE_ICON[node.kind] && !(node.kind === "many" && state === "FAILED") ? NODE_ICON[node.kind] : LOOK[state].shape);
        node.below(node.at ? fitted(words, now, state) : words);
        node.fill(now.bound ? Math.min(now.depth / now.bound, 1) : 0);
        node.chosen(String(key === chosen));
        node.opened(node.kind === "many" && key !== "+" ? String(content.open.includes(key)) : null);
        node.dim(chosen !== null && !near.has(key));
        node.label(`${node.name}${node.kind === "many" ? `, ${count(node.kernels)} ring kernels` : ""}, ${words}`);
      });
      drawDetail(content);
    }

    /** What stands below the name of a node; topology.py has the same. */
    function below(node, now, state) {
      if (node.kind === "outside") return "cells and scripts";
      if (node.kind === "router") return node.note;
      const words = node.kind === "many" ? inWords(now.states) : LOOK[state].word;
      return now.depth ? `${words} · ${short(now.depth)} queued` : words;
    }

    /** The same where there is room for so many letters: what is wrong comes first. */
    function fitted(words, now, state) {
      if (words.length <= ROOM) return words;
      const all = now.states.reduce((sum, n) => sum + n, 0);
      const those = now.states[STATES.indexOf(state)];
      const queued = now.depth ? `, ${short(now.depth)} queued` : "";
      const brief = `${short(those)} ${LOOK[state].word}${those < all ? ` of ${short(all)}` : ""}${queued}`;
      return brief.length <= ROOM ? brief : `${brief.slice(0, ROOM - 1)}…`;
    }

    function drawDetail(content) {
      const at = graph.nodes.findIndex(({ key }) => key === shared.chosen);
      const parts = at < 0 ? [] : facts(content, graph.nodes[at], content.nodes[at]);
      const key = JSON.stringify(parts);
      if (key === said) return;
      said = key;
      const [name, ...others] = parts;
      detail.replaceChildren(
        ...(parts.length
          ? [h("b", {}, name), ...others.map((one) => h("span", {}, one))]
          : [h("span", {}, "Click a node for its numbers; the arrow keys go from one to the next.")]),
      );
      detail.hidden = !content.kernels;
    }

    function facts(content, node, now) {
      const found = [node.kind === "many" ? `${node.name} ×${count(node.kernels)}` : node.name];
      if (node.kind === "router") found.push(`router, ${node.note}`);
      if (node.kind === "outside") found.push("what sends from no ring kernel: cells, scripts, threads");
      if (now.bound) {
        found.push(inWords(now.states).replace(/^1 /, ""));
        found.push(`${count(now.depth)} of ${count(now.bound)} queued`);
        found.push(`${count(now.received)} received, ${count(now.processed)} handled`);
        for (const [n, word] of [
          [now.errors, "error"],
          [now.restarts, "restart"],
          [now.deadLetters, "dead letter"],
        ]) {
          if (n) found.push(`${count(n)} ${word}${n === 1 ? "" : "s"}`);
        }
      }
      for (const [word, mine, other] of [
        ["from", "target", "from"],
        ["to", "source", "to"],
      ]) {
        const those = arrows
          .map((arrow, i) => ({ arrow, n: content.sent[i], rate: content.rates[i] }))
          .filter(({ arrow }) => arrow[mine] === node.key)
          .sort((a, b) => b.n - a.n);
        if (!those.length) continue;
        const shown = those.slice(0, 4).map(({ arrow, n, rate }) => `${arrow[other]} ${count(n)}${rate ? ` (${perSecond(rate)}/s)` : ""}`);
        const more = those.length > 4 ? ` and ${those.length - 4} more` : "";
        found.push(`${word} ${shown.join(", ")}${more}`);
      }
      return found;
    }
  };
}

export default () => {
  const shared = { chosen: null, views: new Set() };
  return { render: live({ title: "Who sends to whom", start: topology(shared) }) };
};
