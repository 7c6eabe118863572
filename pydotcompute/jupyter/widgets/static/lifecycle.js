// The states of one ring kernel. Follows common.js; the diagram is laid out in lifecycle.py.
const ACTIONS = {
  activate: ["Activate", PLAY],
  pause: ["Pause", BARS],
  resume: ["Resume", PLAY],
  restart: ["Restart", AGAIN],
  stop: ["Stop", SQUARE],
};

function start(view) {
  let diagram = null;
  let shown = "";
  let sought = null;
  const boxes = new Map(); // state: whether it is lit
  const ways = [];
  const name = h("b");
  const facts = h("span");
  view.head.append(name, facts);
  const write = { name: text(name), facts: text(facts) };

  const buttons = Object.entries(ACTIONS).map(([verb, [label, icon]]) => {
    const word = h("span", {}, label);
    const button = h("button", { type: "button", "data-verb": verb }, svg(icon), word);
    view.on(button, "click", () => view.command(verb, view.frame.content.kernel));
    return {
      verb,
      button,
      word: text(word),
      hide: field((hide) => (button.hidden = hide)),
      disable: field((off) => (button.disabled = off)),
      title: attribute(button, "title"),
    };
  });
  const none = h("span", { class: "pdc-life-none" });
  const bar = h("div", { class: "pdc-actions" }, ...buttons.map(({ button }) => button), none);
  const picture = h("div", { class: "pdc-life-diagram", tabindex: "0", role: "region", "aria-label": "Diagram of the states" });
  const way = h("ol", { class: "pdc-life-way", "aria-label": "The way it came" });
  const error = h("div", { class: "pdc-life-error" });
  view.body.append(bar, picture, way, error);

  function build({ size, box, boxes: places, ways: all }) {
    diagram = shape("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, role: "img" });
    const scope = `pdc-${Math.random().toString(36).slice(2)}`;
    const head = (id, tone) =>
      shape(
        "marker",
        {
          id: `${scope}-${id}`,
          viewBox: "0 0 7 7",
          refX: 5,
          refY: 3.5,
          markerWidth: 7,
          markerHeight: 7,
          orient: "auto",
          markerUnits: "userSpaceOnUse",
          class: tone,
        },
        shape("path", { d: "M0 0L7 3.5L0 7z" }),
      );
    diagram.append(shape("defs", {}, head("way", "pdc-life-way-head"), head("taken", "pdc-life-way-head pdc-life-taken")));
    for (const { start: from, end: to, word, path, at } of all) {
      const line = shape("path", { d: path });
      const group = shape("g", { class: "pdc-life-way-line" }, line, shape("text", { x: at[0], y: at[1] }, word));
      const taken = field((is) => {
        group.classList.toggle("pdc-life-taken", is);
        line.setAttribute("marker-end", `url(#${scope}-${is ? "taken" : "way"})`);
      });
      ways.push({ from, to, taken });
      diagram.append(group);
    }
    for (const [state, [x, y]] of Object.entries(places)) {
      const look = LOOK[state];
      const group = shape(
        "g",
        { class: "pdc-life-box", "data-tone": look.tone },
        shape("rect", { x: x - box[0] / 2, y: y - box[1] / 2, width: box[0], height: box[1], rx: 6 }),
        shape("path", { d: look.shape, transform: `translate(${x - box[0] / 2 + 6} ${y - 5})` }),
        shape("text", { x: x + 8, y: y + 4 }, state),
      );
      boxes.set(
        state,
        field((lit) => group.classList.toggle("pdc-life-lit", lit)),
      );
      diagram.append(group);
    }
    picture.replaceChildren(diagram);
  }

  function arrived(content) {
    if (content.diagram && !diagram) build(content.diagram);
    return !!diagram;
  }

  function draw() {
    const { content } = view.frame;
    const { state, former } = content;
    write.name(content.kernel);
    write.facts(
      [
        content.body > 1 ? `v${content.body}` : "",
        content.restarts ? `restarted ${content.restarts === 1 ? "once" : `${count(content.restarts)} times`}` : "",
        content.waits ? `waits for ${content.waits}` : "",
      ]
        .filter(Boolean)
        .join(" · "),
    );
    for (const [one, lit] of boxes) lit(one === state);
    if (state !== sought) {
      sought = state; // where there is no room for all of it, the present state is in sight
      const { left, width } = diagram.querySelector(".pdc-life-lit").getBoundingClientRect();
      const box = picture.getBoundingClientRect();
      picture.scrollLeft += left + width / 2 - box.left - box.width / 2;
    }
    for (const { from, to, taken } of ways) taken(from === former && to === state);
    diagram.setAttribute("aria-label", `States of a ring kernel; ${content.kernel} is ${LOOK[state].word}`);

    for (const { verb, word, hide, disable, title } of buttons) {
      hide(!content.verbs.includes(verb));
      disable(!view.acts);
      word(verb === "restart" && state === "TERMINATED" ? "Launch again" : ACTIONS[verb][0]);
      title(view.acts ? null : view.idle);
    }
    none.hidden = content.verbs.length > 0;
    none.textContent = state === "TERMINATING" ? "it handles what is queued, and ends" : "nothing can be asked of it now";
    drawWay(content);
    error.hidden = !content.error;
    error.textContent = `${state === "FAILED" ? "failed" : "failed last"}: ${content.error}${content.origin ? ` — ${content.origin}` : ""}`;
  }

  function drawWay({ way: steps, leftOut, now }) {
    const key = JSON.stringify(steps);
    if (key !== shown) {
      shown = key;
      const items = steps.map(({ word, state, at, why }, i) => {
        const when = i
          ? `+${duration(Math.max(at - steps[i - 1].at, 0)).join(" ")}`
          : new Date(at * 1000).toLocaleTimeString("en-GB");
        const again = word === "restarted";
        const tone = again ? (why ? "bad" : "warn") : LOOK[state].tone;
        const item = h("li", { "data-tone": tone }, ...(again ? [svg(AGAIN)] : []), h("span", {}, word), ` ${when}`);
        if (why) item.append(" ", h("em", {}, why));
        item.title = new Date(at * 1000).toLocaleString();
        return item;
      });
      if (leftOut) items.unshift(h("li", {}, `${count(leftOut)} before`));
      way.replaceChildren(...items, h("li", { class: "pdc-life-for" }));
    }
    way.lastChild.textContent = `for ${duration(Math.max(now - steps.at(-1).at, 0)).join(" ")}`;
  }

  return { arrived, draw };
}

export default () => ({ render: live({ title: "Lifecycle", start }) });
