// A trace as a sequence diagram that follows what is recorded. Follows common.js.
const LEFT = 58; // pixels: the times
const BAR = 8;
const LETTER = 6.3;
const RESTS = 8000; // milliseconds that a picture stays where the reader has scrolled it sideways
const LIMITS = [25, 50, 100, 200, 500, 1000];
const CROSS = "M-4-4L4 4M4-4L-4 4";
const TURN = "M4.2-1.5A4.5 4.5 0 1 0 4.2 1.8M4.6-5v3.6h-3.6";
const MARKS = {
  crash: { path: "M0-5.5L6 5H-6z", tone: "bad", word: "crash" },
  drop: { path: CROSS, tone: "warn", word: "dead letter" },
  restart: { path: TURN, tone: "ok", word: "restart" },
  state: { path: "M0-3A3 3 0 1 0 0 3A3 3 0 1 0 0-3z", tone: "idle", word: "state" },
};

const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const took = (seconds) => (seconds === null ? "" : duration(Math.max(seconds, 0)).join(" "));

function fit(words, room) {
  const most = Math.max(Math.floor(room / LETTER), 1);
  return words.length <= most ? words : most < 3 ? "" : `${words.slice(0, most - 1)}…`;
}

/** Of ids that are long the ends tell which is which. */
function fitMiddle(words, room) {
  const most = Math.max(Math.floor(room / 8.6), 3);
  if (words.length <= most) return words;
  return `${words.slice(0, Math.ceil((most - 1) / 2))}…${words.slice(words.length - Math.floor((most - 1) / 2))}`;
}

/** Where everything goes: rows from top to bottom, in the order in which it happened. */
function arrange({ lanes, items }, width) {
  const least = lanes.some(({ name }) => name.length > 11) ? 132 : 112;
  const space = Math.min(Math.max((width - LEFT - 16) / Math.max(lanes.length, 1), least), 240);
  const x = (lane) => LEFT + (lane + 0.5) * space;
  const rows = [];
  const bars = [];
  const open = new Map(); // lane: {top, number}
  const starts = new Map(); // "lane number": y
  const free = new Map(); // lane: where the bar before ends
  let y = 6;
  let previous = null;
  const close = (lane, number, failed) => {
    const key = `${lane} ${number}`;
    // What had been taken before the picture begins was in hand from its upper end on.
    const top = starts.get(key) ?? (free.has(lane) ? null : 0);
    starts.delete(key);
    if (top === null) return;
    bars.push({ key, lane, top: Math.max(top, free.get(lane) ?? 0), bottom: y, failed, open: false });
    free.set(lane, y);
    if (open.get(lane)?.number === number) open.delete(lane);
  };
  for (const item of items) {
    const [at, kind, seconds] = item;
    if (kind === "end") {
      y += 7;
      close(item[3], item[4], false);
      previous = item;
      continue;
    }
    if (kind === "start") {
      const follows = previous?.[1] === "send" && previous[7] === item[4];
      if (!follows) {
        y += 19;
        const again = item[6] ? `try ${item[6] + 1}` : "";
        rows.push({ at, kind, seconds, y, x: x(item[3]) + 9, words: `#${item[4]} ${item[5]}`, after: again, room: space - 22, anchor: "start" });
      }
      starts.set(`${item[3]} ${item[4]}`, y);
      open.set(item[3], { number: item[4], top: y });
      previous = item;
      continue;
    }
    y += 25;
    if (kind === "send") {
      const [, , , from, to, type, waited, number, fate] = item;
      const words = `#${number} ${type}`;
      const label = `${words} from ${lanes[from].name} to ${lanes[to].name}, ${waited === null ? fate : `waited ${took(waited)}, ${fate}`}`;
      rows.push({ at, kind, seconds, y, from: x(from), to: x(to), words, after: waited === null ? (fate === "waiting" ? "waits" : "") : took(waited), label, fate, number });
    } else if (kind === "reply") {
      const [, , , from, to, type, after, number] = item;
      const out = to === null;
      const words = out ? `sends ${type}` : type;
      const label = out ? `${lanes[from].name} sends ${type}` : `${type}, answer of ${lanes[from].name} to #${number}${after === null ? "" : `, ${took(after)} after it was sent`}`;
      rows.push({ at, kind, seconds, y, from: x(from), to: out ? x(from) + space * 0.42 : x(to), words, after: out ? "" : took(after), label, fate: "", number });
    } else {
      const [, , , lane, number, words] = item;
      if (kind === "crash") close(lane, number, true);
      const { word } = MARKS[kind];
      const at0 = x(lane) + (kind === "drop" ? 12 : 0);
      rows.push({ at, kind, seconds, y, mark: at0, x: at0 + 11, words: kind === "state" ? words.toLowerCase() : words, after: "", room: space * (kind === "crash" ? 2 : 1) - 30, anchor: "start", label: `${lanes[lane].name}, ${word}: ${words}` });
    }
    previous = item;
  }
  y += 14;
  for (const [lane, { number, top }] of open) {
    bars.push({ key: `${lane} ${number}`, lane, top: Math.max(top, free.get(lane) ?? 0), bottom: y, failed: false, open: true });
  }
  return { rows, bars, height: y, space, x, width: LEFT + lanes.length * space + 16 };
}

/** An arrow or a mark. */
function rowPart() {
  const line = shape("path", { class: "pdc-way" });
  const tip = shape("path", { class: "pdc-tip" });
  const target = shape("path", { class: "pdc-target" });
  const words = shape("tspan");
  const after = shape("tspan", { class: "pdc-after", dx: "6" });
  const label = shape("text", {}, words, after);
  const time = shape("text", { class: "pdc-time", x: LEFT - 8, y: 3 });
  const hint = shape("title");
  const el = shape("g", { class: "pdc-event", role: "button", tabindex: "-1" }, hint, target, line, tip, label, time);
  const write = {
    kind: attribute(el, "data-kind"),
    tone: attribute(el, "data-tone"),
    at: attribute(el, "data-at"),
    fate: attribute(el, "data-fate"),
    name: attribute(el, "aria-label"),
    chosen: attribute(el, "aria-pressed"),
    move: attribute(el, "transform"),
    line: attribute(line, "d"),
    tip: attribute(tip, "d"),
    target: attribute(target, "d"),
    x: attribute(label, "x"),
    y: attribute(label, "y"),
    anchor: attribute(label, "text-anchor"),
    words: text(words),
    after: text(after),
    time: text(time),
    hint: text(hint),
  };
  return {
    el,
    draw(row, time, selected, space) {
      write.kind(row.kind);
      write.tone(MARKS[row.kind]?.tone ?? null);
      write.fate(row.fate || null);
      write.at(String(row.at));
      write.name(row.label ?? `${row.words} is taken`);
      write.hint(row.label ?? null);
      write.chosen(String(selected));
      write.move(`translate(0 ${row.y})`);
      write.time(time);
      let { x, room, anchor } = row;
      let y = 4;
      if (row.from !== undefined) {
        const { from: a, to: b } = row;
        y = -5;
        if (a === b) {
          write.line(`M${a + 4} -11h14q6 0 6 5.5t-6 5.5h-8`);
          write.tip(`M${a + 5} 0l7-3.5v7z`);
          write.target(`M${a} -5.5h${space * 0.8}`);
          [x, y, room, anchor] = [a + 30, -2, space - 40, "start"];
        } else {
          const way = b > a ? 1 : -1;
          write.line(`M${a + way * 4} 0H${b - way * 10}`);
          write.tip(`M${b - way * 4} 0l${-way * 7} -3.5v7z`);
          write.target(`M${a} -5H${b}`);
          const half = Math.min(Math.abs(b - a) / 2, space); // of a long arrow by its end, which comes into sight
          [x, room, anchor] = [b - way * half, 2 * half - 22, "middle"];
        }
      } else {
        write.line(null);
        write.tip(row.mark === undefined ? null : MARKS[row.kind].path);
        tip.setAttribute("transform", `translate(${row.mark ?? 0} 0)`);
        write.target(`M${x - 18} 0h${space * 0.8}`);
      }
      const extra = row.after ? (row.after.length + 2) * LETTER : 0;
      // Else the type alone says more.
      const both = extra && room - extra >= Math.min(7, row.words.length) * LETTER;
      write.words(fit(row.words, room - (both ? extra : 0)));
      write.after(both ? row.after : "");
      write.x(String(x));
      write.y(String(y));
      write.anchor(anchor);
    },
  };
}

/** Keeps one part for each key; those that are still there keep the focus of the keyboard. */
function keyed(el, make) {
  const parts = new Map();
  return (things, key, draw) => {
    const there = new Set(things.map(key));
    const spare = [];
    for (const [known, part] of parts) {
      if (there.has(known)) continue;
      parts.delete(known);
      if (part.el.contains(document.activeElement)) part.el.remove();
      else spare.push(part);
    }
    let before = null; // elements stand in the order in which they happened, for the keyboard and for who listens
    for (const thing of things) {
      const known = key(thing);
      let part = parts.get(known);
      if (!part) {
        part = spare.pop() ?? make();
        parts.set(known, part);
      }
      const next = before ? before.nextSibling : el.firstChild;
      if (next !== part.el) el.insertBefore(part.el, next);
      before = part.el;
      draw(part, thing);
    }
    for (const part of spare) part.el.remove();
  };
}

function start(view) {
  // -- controls
  const choice = (label, ...options) => h("select", { "aria-label": label, title: label }, ...options);
  const option = (value, words = value) => h("option", { value }, words);
  const kernel = choice("only messages of this kernel", option("", "all kernels"));
  const type = choice("only messages of this type", option("", "all types"));
  const search = h("input", { type: "search", placeholder: "text in messages", "aria-label": "only messages with this text", maxlength: "200" });
  const limit = choice("messages shown at most");
  const older = h("button", { type: "button", title: "the messages before these" }, "Older");
  const newer = h("button", { type: "button", title: "the messages after these" }, "Newer");
  const newest = h("button", { type: "button", title: "follow what is recorded" }, "Newest");
  const slider = h("input", { type: "range", class: "pdc-slider", "aria-label": "how far back", step: "1", min: "0" });
  view.head.append(kernel, type, search, limit);

  // -- the picture
  const heads = h("div", { class: "pdc-lanes" });
  const lines = shape("g", { class: "pdc-lifelines" });
  const bars = shape("g", { class: "pdc-bars" });
  const rows = shape("g");
  const picture = shape("svg", { class: "pdc-sequence-picture", role: "group", "aria-label": "Messages, the newest last" }, lines, bars, rows);
  const box = h("div", { class: "pdc-sequence", tabindex: "0", role: "region", "aria-label": "Sequence diagram" }, heads, picture);
  const empty = h("div", { class: "pdc-empty" });
  const back = h("div", { class: "pdc-back" }, older, slider, newer, newest);

  // -- the selected message
  const chosenTitle = h("b");
  const shut = h("button", { type: "button", "aria-label": "close the message" }, "Close");
  const facts = h("dl", { class: "pdc-details" });
  const message = h("pre", { tabindex: "0", "aria-label": "the message" });
  const caused = h("div", { class: "pdc-caused" });
  const panel = h("section", { class: "pdc-chosen", "aria-label": "Selected message" }, h("div", { class: "pdc-chosen-head" }, chosenTitle, shut), facts, message, caused);
  const said = h("span");
  view.body.append(empty, box, back, panel);
  view.foot.append(said);

  let shown = null; // the picture that was sent last
  let revision = 0;
  let chosen = "";
  let held = false; // while a button of the mouse is down, what is under it stays
  let active = null; // the event that the tabulator key comes to
  let drawnAs = "";
  let bottom = 0;
  let seen = 0; // how far it was scrolled sideways
  let sideways = -1e9; // when the reader has done that

  const drawRows = keyed(rows, rowPart);
  const drawBars = keyed(bars, () => {
    const el = shape("rect", { width: BAR, rx: 2 });
    return {
      el,
      x: attribute(el, "x"),
      y: attribute(el, "y"),
      height: attribute(el, "height"),
      look: attribute(el, "data-look"),
    };
  });

  // -- what the reader does

  const filter = () => view.set("filter", { kernel: kernel.value, type: type.value, text: search.value });
  for (const el of [kernel, type]) view.on(el, "change", filter);
  let typing = 0;
  view.on(search, "input", () => {
    clearTimeout(typing);
    typing = setTimeout(filter, 200);
  });
  view.on(limit, "change", () => view.set("limit", Number(limit.value)));
  view.on(older, "click", () => shown && view.set("until", shown.items.length ? shown.items[0][0] : shown.begin));
  view.on(newer, "click", () => {
    const until = shown.end + Math.max(shown.end - (shown.items[0]?.[0] ?? shown.begin), 1);
    view.set("until", until >= view.frame.content.recorded ? null : until);
  });
  view.on(newest, "click", () => view.set("until", null));
  view.on(slider, "input", () => view.set("until", Number(slider.value) >= Number(slider.max) ? null : Number(slider.value)));
  view.on(shut, "click", () => {
    view.set("selected", null);
    box.focus();
  });
  const select = (el) => {
    const at = Number(el.dataset.at);
    active = at;
    view.set("selected", shown.selected === at ? null : at);
  };
  view.on(picture, "click", (event) => {
    const el = event.target.closest(".pdc-event");
    if (el) select(el);
  });
  view.on(caused, "click", ({ target }) => target.dataset.at && view.set("selected", Number(target.dataset.at)));
  view.on(box, "pointerdown", () => (held = true));
  for (const type of ["pointerup", "pointercancel"]) {
    view.on(window, type, () => {
      if (!held) return;
      held = false;
      setTimeout(view.redraw, 0); // the click comes first
    });
  }
  view.on(box, "keydown", (event) => {
    const els = [...rows.children];
    const here = els.indexOf(document.activeElement);
    const to = { ArrowDown: here + 1, ArrowUp: here < 0 ? els.length - 1 : here - 1, Home: 0, End: els.length - 1 }[event.key];
    if (to !== undefined) {
      const el = els[Math.min(Math.max(to, 0), els.length - 1)];
      if (!el) return;
      active = Number(el.dataset.at);
      el.focus({ preventScroll: true });
      el.scrollIntoView({ block: "nearest", inline: "nearest" });
      hold();
    } else if ((event.key === "Enter" || event.key === " ") && here >= 0) select(els[here]);
    else if (event.key === "Escape" && shown?.selected !== null) view.set("selected", null);
    else return;
    event.preventDefault();
  });
  /** Whoever goes back in a picture that moves wants it to stay. */
  function hold() {
    if (shown && shown.until === null && view.frame.content.live === null) view.set("until", shown.end);
  }
  view.on(box, "scroll", () => {
    if (Math.abs(box.scrollLeft - seen) > 1) [seen, sideways] = [box.scrollLeft, performance.now()];
    picture.style.setProperty("--pdc-left", `${box.scrollLeft}px`);
    if (box.scrollTop + box.clientHeight < bottom - 30 && drawnAs === `${box.clientWidth} ${revision}`) hold();
  });

  // -- drawing

  const fill = (select, first, values) =>
    field((key) => {
      const value = select.value;
      select.replaceChildren(...first, ...values().map((one) => option(one)));
      select.value = value;
    });
  const fillKernels = fill(kernel, [option("", "all kernels")], () => shown.kernels);
  const fillTypes = fill(type, [option("", "all types")], () => shown.types);
  const fillLimits = field(() => {
    const values = [...new Set([...LIMITS, shown.limit])].sort((a, b) => a - b);
    limit.replaceChildren(...values.map((n) => option(String(n), plural(n, "message"))));
  });
  const drawHeads = field((key) => {
    const { lanes, space } = JSON.parse(key);
    heads.replaceChildren(
      ...lanes.map(({ name, node }, i) =>
        h("div", { class: `pdc-lane${i === 0 && name === "outside" ? " pdc-outside" : ""}`, title: node ? `${node}/${name}` : name }, ...(node ? [h("small", {}, fitMiddle(node, space - 24))] : []), fitMiddle(name, space - 24)),
      ),
    );
  });

  function drawPicture() {
    const width = box.clientWidth;
    if (!width) return;
    const as = `${width} ${revision}`;
    if (as === drawnAs) return;
    const followed = shown.until === null;
    const { rows: all, bars: inHand, height, space, x, width: wide } = arrange(shown, width);
    drawHeads(JSON.stringify({ lanes: shown.lanes, space }));
    heads.style.setProperty("--lane", `${space}px`);
    heads.style.width = `${Math.max(wide, width)}px`;
    picture.setAttribute("width", Math.max(wide, width));
    picture.setAttribute("height", height);
    lines.replaceChildren(...shown.lanes.map((lane, i) => shape("path", { d: `M${x(i)} 0V${height}` })));
    drawBars(
      inHand,
      ({ key, top, bottom: end }) => `${key} ${top} ${end}`,
      (part, bar) => {
        part.x(String(x(bar.lane) - BAR / 2));
        part.y(String(bar.top));
        part.height(String(Math.max(bar.bottom - bar.top, 3)));
        part.look(bar.failed ? "failed" : bar.open ? "open" : null);
      },
    );
    let time = "";
    drawRows(
      all,
      (row) => row.at,
      (part, row) => {
        const now = row.seconds > 0 ? `+${took(row.seconds)}` : "0";
        part.draw(row, now === time ? "" : now, shown.selected === row.at, space);
        time = now;
      },
    );
    const els = [...rows.children];
    const reached = els.find((el) => Number(el.dataset.at) === active) ?? els.at(-1);
    for (const el of els) el.setAttribute("tabindex", el === reached ? "0" : "-1");
    bottom = box.scrollHeight;
    drawnAs = as;
    if (!followed) return;
    box.scrollTop = box.scrollHeight;
    followSideways(all, x, space, wide);
  }

  /** Bring what happened last into sight, where not all lanes have room beside each other. */
  function followSideways(all, x, space, wide) {
    const room = box.clientWidth;
    const latest = all.at(-1);
    if (wide <= room || !latest || performance.now() - sideways < RESTS) return;
    const ends = latest.from === undefined ? [latest.x, latest.x] : [Math.min(latest.from, latest.to), Math.max(latest.from, latest.to)];
    const [left, right] = [ends[0] - space / 2, ends[1] + space / 2];
    if (left >= box.scrollLeft && right <= box.scrollLeft + room) return;
    // The end of an arrow that is longer than there is room for, and as little as will do otherwise.
    const goal = right - left > room ? (latest.to ?? latest.x) - room / 2 : left < box.scrollLeft ? left : right - room;
    box.scrollLeft = seen = Math.min(Math.max(Math.round(goal), 0), box.scrollWidth - room);
  }

  function drawChosen() {
    const now = JSON.stringify(shown.chosen);
    if (now === chosen) return;
    chosen = now;
    panel.hidden = !shown.chosen;
    if (!shown.chosen) return;
    chosenTitle.textContent = shown.chosen.title;
    facts.replaceChildren(...shown.chosen.facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    message.textContent = shown.chosen.text;
    message.hidden = !shown.chosen.text;
    caused.replaceChildren(
      ...(shown.chosen.caused.length ? [h("span", {}, "caused")] : []),
      ...shown.chosen.caused.map(({ at, text: words }) => h("button", { type: "button", "data-at": at }, words)),
      ...(shown.chosen.moreCaused ? [`and ${count(shown.chosen.moreCaused)} more`] : []),
    );
    caused.hidden = !shown.chosen.caused.length;
  }

  const drawEmpty = field((why) => {
    empty.hidden = !why;
    const code = (words) => h("code", {}, words);
    const says = {
      filter: ["No message passes the filter: choose all kernels and all types, take away the text, or go back with Older."],
      older: ["No message is kept of this time: go on with Newer or Newest."],
      still: ["There are no events in what is shown."],
      idle: ["Nothing is recorded. Start it with ", code("trace.start()"), ", then send a message: ", code("await runtime.send(…)")],
      waits: ["Nothing has happened yet. Send a message: ", code("await runtime.send(…)")],
    }[why];
    empty.replaceChildren(...(says ?? []));
  });

  return {
    arrived(content) {
      if (content.picture) {
        shown = content.picture;
        revision = content.revision;
      }
      return shown !== null && revision === content.revision;
    },
    draw() {
      const { content } = view.frame;
      const filtering = Object.values(shown.filter).some(Boolean);
      fillKernels(shown.kernels.join("\n"));
      fillTypes(shown.types.join("\n"));
      fillLimits(shown.limit);
      for (const [el, value] of [
        [kernel, shown.filter.kernel],
        [type, shown.filter.type],
        [search, shown.filter.text],
        [limit, String(shown.limit)],
      ]) {
        if (el !== document.activeElement && el.value !== value) el.value = value;
      }
      const none = shown.items.length === 0;
      drawEmpty(
        !none ? "" : filtering ? "filter" : content.recorded > 0 ? "older" : content.still ? "still" : content.live ? "idle" : "waits",
      );
      box.hidden = none;
      back.hidden = content.recorded === 0;
      if (!none && !held) drawPicture();
      drawChosen();
      slider.min = content.oldest;
      slider.max = content.recorded;
      if (slider !== document.activeElement || shown.until === null) slider.value = shown.until ?? content.recorded;
      slider.setAttribute("aria-valuetext", shown.until === null ? "the newest" : `up to event ${count(shown.until)}`);
      older.disabled = !(shown.items.length ? shown.items[0][0] : shown.begin) || (shown.items[0]?.[0] ?? shown.begin) <= content.oldest;
      newer.disabled = newest.disabled = shown.until === null;
      newest.classList.toggle("pdc-primary", shown.until !== null && content.live === null);
      const left = Math.max(content.messages - shown.count, 0);
      said.textContent = [
        ...(content.news ? [`${plural(content.news, "event")} since the last picture`] : []),
        `${plural(shown.count, "message")} shown, ${content.missed ? "at least " : ""}${count(left)} left out`,
        ...(shown.searched === null ? [] : [`of ${plural(shown.searched, "event")} searched`]),
      ].join("; ");
    },
    close() {
      clearTimeout(typing);
    },
  };
}

export default () => ({ render: live({ title: "Sequence", start }) });
