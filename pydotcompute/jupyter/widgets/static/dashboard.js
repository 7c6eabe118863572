// The dashboard: all kernels in a table of which only the rows in sight are in the page; or one of them; or one line for
// all. Follows common.js.
const COLUMNS = [
  ["state", "u4"],
  ["version", "u4"],
  ["depth", "u4"],
  ["bound", "u4"],
  ["peak", "u4"],
  ["rate", "f4"],
  ["waitP50", "f4"],
  ["waitP99", "f4"],
  ["handleP50", "f4"],
  ["handleP99", "f4"],
  ["errors", "u4"],
  ["restarts", "u4"],
  ["deadLetters", "u4"],
];
const SERIES = 5;
const VERBS = {
  activate: ["Activate", PLAY],
  pause: ["Pause", BARS],
  resume: ["Resume", PLAY],
  step: ["Step", "M1 1l5 4l-5 4zM7 1h2v8h-2z"],
  restart: ["Restart", AGAIN],
  stop: ["Stop", SQUARE],
};
const RATES = [1, 2, 5, 10, 20];
const WINDOWS = [30, 60, 300, 900, 3600];
const SHOWN = ["ACTIVE", "LAUNCHED", "CREATED", "DEACTIVATED", "TERMINATING", "FAILED", "TERMINATED"].map((state) =>
  STATES.indexOf(state),
);
const EMPTY =
  '<p>No ring kernels yet.</p><p>Launch one that is defined: <code>await runtime.launch("name")</code>' +
  " &ensp;or define one in a cell: <code>%%ring_kernel name</code></p>";

/** The columns of a frame by name, as typed arrays over its buffer. */
function unpack(view) {
  // A DataView of a message may start anywhere; typed arrays want multiples of four.
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  const kernels = bytes.byteLength / 4 / COLUMNS.length;
  const columns = {};
  COLUMNS.forEach(([name, kind], i) => {
    const Words = kind === "f4" ? Float32Array : Uint32Array;
    columns[name] = new Words(bytes, i * kernels * 4, kernels);
  });
  return columns;
}

const TITLES = [
  ["id", "kernel", true],
  ["state", "state", true],
  ["depth", "queue (peak)", true],
  ["spark", "rate", true],
  ["rate", "msg/s"],
  ["waitP99", "wait p50 / p99"],
  ["handleP99", "handle p50 / p99"],
  ["errors", "errors"],
  ["restarts", "restarts"],
  ["deadLetters", "dead"],
];
const TIPS = {
  depth: "messages in the mailbox; the pale bar and the number in brackets are the most there ever were",
  spark: "messages handled per second, over the time of the charts",
  rate: "messages handled per second",
  waitP99: "time in the mailbox, of the last seconds; of compiled kernels a sample",
  handleP99: "time in the body, of the last seconds; of compiled kernels a sample",
  deadLetters: "dead letters: messages that were not handled",
};
const OVERSCAN = 3;
const COLLATOR = new Intl.Collator("en", { numeric: true });

const span = (seconds) => (seconds < 60 || seconds % 60 ? `${seconds} s` : `${seconds / 60} min`);

/** "3 active · 1 failed". */
const byState = (counts) =>
  SHOWN.filter((code) => counts[code])
    .map((code) => `${count(counts[code])} ${LOOK[STATES[code]].word}`)
    .join(" · ");

/** [what, seconds] of the loops whose lag is known. */
const lags = ({ lag, notebookLag }) =>
  [
    ["runtime", lag],
    ["notebook", notebookLag],
  ].filter(([, value]) => value !== null);

const gibibytes = (bytes) => {
  const value = bytes / 2 ** 30;
  return value < 9.95 ? value.toFixed(1) : value.toFixed(0);
};

/** Values over time as a line in a box of `width` by 18; `at(k)` is the k-th of n. */
function sparkPath(at, n, width) {
  let high = 1e-9;
  for (let k = 0; k < n; k++) if (at(k) > high) high = at(k);
  let path = "";
  let pen = "M";
  for (let k = 1; k <= n; k += 2) {
    const value = at(k - 1);
    if (Number.isNaN(value)) {
      pen = "M";
      continue;
    }
    path += `${pen}${((k / n) * width).toFixed(1)} ${(17 - (value / high) * 16).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

/** What the kernel has set, to choose another. */
function choice(view, label, name, options, word) {
  const node = h("select", { "aria-label": label, title: label });
  let chosenAt = -1e9;
  const fill = field((list) =>
    node.replaceChildren(...list.split(" ").map((value) => h("option", { value }, word(Number(value))))),
  );
  view.on(node, "change", () => {
    chosenAt = performance.now();
    view.set(name, Number(node.value));
  });
  const off = field((disabled) => (node.disabled = disabled));
  return {
    node,
    show(present) {
      off(!view.acts);
      fill([...new Set([...options, present])].sort((a, b) => a - b).join(" "));
      if (node.value !== String(present) && performance.now() - chosenAt > 1500) node.value = String(present);
    },
  };
}

/** How often, and how far back. */
function choices(view) {
  const window = choice(view, "seconds that the charts show", "window", WINDOWS, span);
  const hz = choice(view, "pictures a second", "hz", RATES, (value) => `${value} Hz`);
  return {
    nodes: [window.node, hz.node],
    show(content) {
      window.show(content.window);
      hz.show(content.hz);
    },
  };
}

/** A number with a word below it. */
function kpi(label) {
  const term = h("small", {}, label);
  const value = h("b");
  const box = h("div", {}, value, term);
  return {
    box,
    label: text(term),
    value: text(value),
    title: attribute(box, "title"),
    late: field((late) => box.classList.toggle("pdc-late", late)),
    hide: field((hide) => (box.hidden = hide)),
  };
}

// -- what is wrong -----------------------------------------------------------------------------------------------------

/** Failures and the like, each with what can be done about it. `list(word)` shows the kernels of a state. */
function notices(view, ui, list) {
  const more = h("button", { type: "button", class: "pdc-link" });
  const rest = h("div", { role: "listitem", "data-kind": "failed" }, more);
  const node = h("div", { class: "pdc-notes", role: "list", tabindex: "0", "aria-label": "What is wrong" });
  const known = new Map();
  const write = { rest: field((n) => (more.textContent = `${count(n)} more failed: list all that have`)) };
  view.on(more, "click", () => list("failed"));

  function notice(kernel, kind) {
    const icon = svg(kind === "failed" ? TRIANGLE : RING);
    const [what, where, fate] = [h("span"), h("small"), h("small")];
    const trace = h("pre", { tabindex: "0", "aria-label": `traceback of ${kernel}` });
    const show = h("button", { type: "button", class: "pdc-link", "aria-expanded": "false" }, "traceback");
    const again = h("button", { type: "button", class: "pdc-link", "data-verb": "restart" }, svg(AGAIN), "restart");
    const line = h("div", {}, icon, h("p", {}, what, where, fate));
    if (kind === "failed") line.append(h("span", {}, show, again));
    const item = h("div", { role: "listitem", "data-kind": kind }, line, trace);
    let key = "";
    view.on(show, "click", () => {
      const of = key;
      if (!ui.open.delete(of)) {
        ui.open.set(of, "…");
        view.command("traceback", kernel, {}, (_, words) => {
          if (ui.open.has(of)) ui.open.set(of, words);
          view.redraw();
        });
      }
      view.redraw();
    });
    view.on(again, "click", () => view.command("restart", kernel));
    const write = {
      what: text(what),
      where: text(where),
      fate: text(fate),
      trace: text(trace),
      open: field((open) => {
        trace.hidden = !open;
        show.setAttribute("aria-expanded", String(open));
      }),
      off: field((off) => (again.disabled = off)),
      why: attribute(again, "title"),
    };
    return {
      item,
      show(note) {
        key = `${kernel} ${note.text}`;
        write.what(`${kernel} ${note.text}`);
        write.where(note.origin && ` — ${note.origin}`);
        write.fate(note.fate && ` · ${note.fate}`);
        write.trace(ui.open.get(key) ?? "");
        write.open(ui.open.has(key));
        write.off(!view.acts);
        write.why(view.acts ? `start ${kernel} again` : view.idle);
      },
    };
  }

  const keyed = field((names) => node.replaceChildren(...names.split("\n").map((name) => known.get(name)?.item ?? rest)));
  return {
    node,
    show({ notes, counts }) {
      const names = notes.map(({ kernel, kind }) => `${kind} ${kernel}`);
      notes.forEach((note, i) => {
        if (!known.has(names[i])) known.set(names[i], notice(note.kernel, note.kind));
        known.get(names[i]).show(note);
      });
      const unlisted = counts[STATES.indexOf("FAILED")] - notes.filter(({ kind }) => kind === "failed").length;
      if (unlisted > 0) {
        write.rest(unlisted);
        names.push("");
      }
      node.hidden = !names.length;
      keyed(names.join("\n"));
      for (const name of known.keys()) if (!names.includes(name)) known.delete(name);
    },
  };
}

// -- one line ----------------------------------------------------------------------------------------------------------

function line(view) {
  view.root.classList.add("pdc-compact");
  const states = STATES.map((state) => {
    const { word, tone, shape } = LOOK[state];
    const n = h("b");
    const node = h("span", { class: "pdc-state", "data-tone": tone, title: word }, svg(shape), n, ` ${word}`);
    return { node, n: text(n), hide: field((hide) => (node.hidden = hide)) };
  });
  const number = (word, ...extra) => {
    const [n, unit] = [h("b"), h("small", {}, word)];
    return { node: h("span", {}, n, " ", unit, ...extra), n: text(n), unit: text(unit) };
  };
  const spark = svg("", { viewBox: "0 0 84 18", preserveAspectRatio: "none", role: "img" });
  const none = h("span", { class: "pdc-none" }, "no kernels");
  const rate = number("msg/s", spark);
  const queued = number("queued");
  const lag = number("lag");
  const dead = number("dead letters");
  const wrong = h("span", { class: "pdc-bad pdc-wrong" });
  const ordered = SHOWN.map((code) => states[code].node);
  const parts = [rate, queued, lag, dead].map(({ node }) => node);
  view.head.append(h("span", { class: "pdc-states" }, none, ...ordered), ...parts, wrong);
  const write = {
    none: field((hide) => (none.hidden = hide)),
    path: attribute(spark.firstChild, "d"),
    label: attribute(spark, "aria-label"),
    lags: attribute(lag.node, "title"),
    hideLag: field((hide) => (lag.node.hidden = hide)),
    wrong: text(wrong),
    wrongTitle: attribute(wrong, "title"),
  };
  let total = new Float32Array(0);

  return {
    arrived(_, [buffer]) {
      total = new Float32Array(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength));
    },
    draw() {
      const { content } = view.frame;
      states.forEach(({ n, hide }, code) => {
        n(count(content.counts[code]));
        hide(!content.counts[code]);
      });
      write.none(content.counts.some((n) => n));
      rate.n(content.rate === null ? "–" : perSecond(content.rate));
      write.path(sparkPath((k) => total[k], total.length, 84));
      write.label(`messages a second over the last ${span(content.window)}`);
      queued.n(count(content.queued));
      const known = lags(content);
      write.hideLag(!known.length);
      lag.n(known.map(([, value]) => duration(value).join(" ")).join(" · "));
      write.lags(`how late the event loops are: ${known.map(([name]) => name).join(" · ")}`);
      dead.n(count(content.deadLetters));
      dead.unit(content.deadLetters === 1 ? "dead letter" : "dead letters");
      const failed = content.notes.filter(({ kind }) => kind === "failed");
      write.wrong(failed.length ? `${failed[0].kernel} ${failed[0].text}` : "");
      write.wrongTitle(
        failed.map(({ kernel, text: what, origin }) => `${kernel} ${what} — ${origin}`).join("\n") || null,
      );
    },
  };
}

// -- the table ---------------------------------------------------------------------------------------------------------

/** All kernels; or `only` one of them, which the frames then tell of alone. */
function table(view, ui, only) {
  const { root, on } = view;
  root.classList.add(only ? "pdc-embed" : "pdc-all");

  // What is shown: the latest frame, and what the browser keeps besides.
  let columns = null;
  let ids = [];
  let tags = []; // what runs each
  let roster = 0;
  let sparks = []; // by kernel: Float32Array(points), point k at k % points
  let moment = -1;
  let order = []; // indices into ids, filtered and sorted
  let sortedAt = 0;
  const scope = `pdc-${Math.random().toString(36).slice(2)}`;

  // -- the parts -------------------------------------------------------------------------------------------------------

  const kernels = kpi("no kernels");
  const rate = kpi("messages");
  const lag = kpi("loop lag");
  const cpu = kpi("CPU");
  cpu.title("of a core, by the process of the notebook's kernel");
  const gpu = kpi("GPU");
  const dead = kpi("dead letters");
  const settings = choices(view);
  const filter = h("input", {
    type: "search",
    placeholder: "Filter by id, state, backend",
    "aria-label": "Filter by id, state, or what runs it",
  });
  filter.value = ui.filter;
  const buttons = Object.entries(VERBS).map(([verb, [label, shape]]) => {
    const button = h("button", { type: "button", "data-verb": verb }, svg(shape), label);
    on(button, "click", () => command(verb));
    return {
      verb,
      button,
      hide: field((hide) => (button.hidden = hide)),
      disabled: field((off) => (button.disabled = off)),
      title: attribute(button, "title"),
    };
  });
  const titles = h("div", { class: "pdc-row pdc-titles", role: "row", "aria-rowindex": "1" });
  const sorters = TITLES.map(([column, name, left]) => {
    const title = only && column === "id" ? "runs on" : name;
    const cell = h("div", { role: "columnheader", "data-column": column, ...(left && { class: "pdc-left" }) });
    const sortable =
      column === "spark" || only
        ? null
        : h(
            "button",
            { type: "button", tabindex: "-1", title: `sort by ${title}${TIPS[column] ? `: ${TIPS[column]}` : ""}` },
            title,
            svg(DOWN),
          );
    if (sortable) on(sortable, "click", () => sortBy(column));
    cell.append(sortable ?? h("span", { title: TIPS[column] }, title));
    titles.append(cell);
    return [column, attribute(cell, "aria-sort")];
  });
  const body = h("div", { class: "pdc-body", role: "rowgroup" });
  const grid = h(
    "div",
    {
      class: "pdc-grid",
      role: "grid",
      tabindex: "0",
      "aria-label": only ? `Ring kernel ${only}` : "Ring kernels",
      ...(!only && { "aria-multiselectable": "true" }),
    },
    h("div", { class: "pdc-top", role: "rowgroup" }, titles),
    body,
  );
  const empty = h("div", { class: "pdc-empty" });
  const notes = notices(view, ui, seek);
  const selectedWord = h("span");
  const acts = h("div", { class: "pdc-slot", role: "group", "aria-label": "what the selected shall do" });
  acts.append(...buttons.map(({ button }) => button));
  const set = h("div", { class: "pdc-slot" }, ...settings.nodes);
  if (only) view.head.append(acts, set);
  else {
    const boxes = [kernels, rate, lag, cpu, gpu, dead].map(({ box }) => box);
    view.head.append(h("div", { class: "pdc-kpis" }, ...boxes));
    view.body.append(h("div", { class: "pdc-bar" }, filter, acts, set));
  }
  view.body.append(grid, empty, notes.node);
  view.foot.append(selectedWord);

  const write = {
    selected: text(selectedWord),
    height: field((rows) => (body.style.height = `calc(${rows} * var(--pdc-row))`)),
    rowCount: attribute(grid, "aria-rowcount"),
    active: attribute(grid, "aria-activedescendant"),
    empty: field((html) => (empty.innerHTML = html)),
  };

  // -- rows: only those in sight are in the page -----------------------------------------------------------------------

  const pool = [];

  function row() {
    const name = h("span");
    const tag = h("span", { class: "pdc-kind" });
    const version = h("span", { class: "pdc-tag" });
    const shape = svg("");
    const word = h("span");
    const state = h("div", { role: "gridcell", class: "pdc-left pdc-state" }, shape, word);
    const peakBar = h("b");
    const depthBar = h("b");
    const depth = h("span");
    const peak = h("small");
    const queue = h(
      "div",
      { role: "gridcell", class: "pdc-left pdc-queue" },
      h("i", { "aria-hidden": "true" }, peakBar, depthBar),
      h("span", {}, depth, " ", peak),
    );
    const line = svg("", { viewBox: "0 0 84 18", preserveAspectRatio: "none", role: "img", "aria-label": "" });
    const cell = (extra = {}) => h("div", { role: "gridcell", ...extra });
    const id = cell({ class: "pdc-left pdc-id" });
    id.append(name, tag, version);
    const spark = cell({ class: "pdc-left pdc-spark" });
    spark.append(line);
    const cells = {
      rate: cell(),
      wait: cell({ "data-column": "waitP99" }),
      handle: cell({ "data-column": "handleP99" }),
      errors: cell(),
      restarts: cell({ "data-column": "restarts" }),
      dead: cell(),
    };
    const node = h("div", { class: "pdc-row", role: "row" }, id, state, queue, spark, ...Object.values(cells));
    body.append(node);
    return {
      node,
      at: field((i) => {
        node.style.transform = `translateY(calc(${i} * var(--pdc-row)))`;
        node.setAttribute("aria-rowindex", String(i + 2));
        node.id = `${scope}-${i}`;
        node.dataset.at = i;
      }),
      show: field((show) => (node.hidden = !show)),
      name: field((value) => {
        name.textContent = value;
        id.title = value;
      }),
      tag: field((value) => {
        tag.textContent = value;
        tag.title = value === "async" ? "an async ring kernel" : `compiled, runs on: ${value}`;
      }),
      version: field((n) => {
        version.textContent = `v${n}`;
        version.hidden = n <= 1;
      }),
      state: field((code) => {
        const look = LOOK[STATES[code]] ?? { word: `state ${code}`, tone: "idle", shape: RING };
        word.textContent = look.word;
        shape.firstChild.setAttribute("d", look.shape);
        state.dataset.tone = look.tone;
        state.title = look.hint ?? "";
      }),
      depth: text(depth),
      peak: text(peak),
      peakBar: field((part) => (peakBar.style.transform = `scaleX(${part})`)),
      depthBar: field((part) => (depthBar.style.transform = `scaleX(${part})`)),
      full: field((full) => queue.classList.toggle("pdc-full", full)),
      queueTitle: attribute(queue, "title"),
      line: attribute(line.firstChild, "d"),
      lineLabel: attribute(line, "aria-label"),
      rate: text(cells.rate),
      wait: text(cells.wait),
      handle: text(cells.handle),
      errors: text(cells.errors),
      restarts: text(cells.restarts),
      bad: field((bad) => cells.errors.classList.toggle("pdc-bad", bad)),
      dead: text(cells.dead),
      selected: attribute(node, "aria-selected"),
      cursor: field((at) => node.classList.toggle("pdc-at", at)),
    };
  }

  function fill(line, i, at) {
    const { content } = view.frame;
    const bound = columns.bound[i] || 1;
    line.show(true);
    line.at(at);
    line.name(ids[i]);
    line.tag(tags[i]);
    line.version(columns.version[i]);
    line.state(columns.state[i]);
    line.depth(columns.depth[i] < 10000 ? count(columns.depth[i]) : short(columns.depth[i]));
    line.peak(`(${short(columns.peak[i])})`);
    line.peakBar(Math.min(columns.peak[i] / bound, 1).toFixed(3));
    line.depthBar(Math.min(columns.depth[i] / bound, 1).toFixed(3));
    line.full(columns.depth[i] >= 0.9 * bound);
    line.queueTitle(
      `${count(columns.depth[i])} of ${count(columns.bound[i])} queued, at most ${count(columns.peak[i])} so far`,
    );
    line.rate(perSecond(columns.rate[i]));
    line.wait(percentiles(columns.waitP50[i], columns.waitP99[i]));
    line.handle(percentiles(columns.handleP50[i], columns.handleP99[i]));
    line.errors(count(columns.errors[i]));
    line.bad(columns.errors[i] > 0);
    line.restarts(count(columns.restarts[i]));
    line.dead(count(columns.deadLetters[i]));
    line.selected(String(ui.selected.has(ids[i])));
    line.cursor(ids[i] === ui.cursor);
    const drawn = `${ids[i]} ${moment}`;
    if (line.drawn !== drawn) {
      line.drawn = drawn;
      const n = content.points;
      line.line(sparkPath((k) => sparks[i][(moment + 1 + k) % n], n, 84));
      line.lineLabel(
        `rate over the last ${span(content.window)}, now ${perSecond(columns.rate[i])} messages a second`,
      );
    }
  }

  // -- drawing ---------------------------------------------------------------------------------------------------------

  function rowHeight() {
    return pool[0]?.node.offsetHeight || 28;
  }

  /** Which kernels are listed, and in what order. Values change all the time: the order only once a second. */
  function arrange(now) {
    sortedAt = now;
    const wanted = ui.filter.trim().toLowerCase();
    order = [];
    for (let i = 0; i < ids.length; i++) {
      const word = LOOK[STATES[columns.state[i]]]?.word ?? "";
      const matches = ids[i].toLowerCase().includes(wanted) || word.startsWith(wanted) || tags[i].startsWith(wanted);
      if (!wanted || matches) order.push(i);
    }
    const { column, down } = ui.sort;
    if (column) {
      const sign = down ? -1 : 1;
      const values = columns[column];
      const of = (i) => (Number.isNaN(values[i]) ? -1 : values[i]);
      const compare =
        column === "id" ? (a, b) => COLLATOR.compare(ids[a], ids[b]) : (a, b) => of(a) - of(b);
      order.sort((a, b) => sign * compare(a, b) || a - b);
    }
  }

  function draw() {
    const { content } = view.frame;
    const now = performance.now();
    if (now - sortedAt > 1000) arrange(now);

    kernels.value(count(ids.length));
    kernels.label(byState(content.counts) || "no kernels");
    rate.value(content.rate === null ? "–" : `${perSecond(content.rate)}/s`);
    const known = lags(content);
    lag.hide(!known.length);
    lag.value(known.map(([, value]) => duration(value).join(" ")).join(" · "));
    lag.label(`loop lag: ${known.map(([name]) => name).join(" · ")}`);
    lag.late((content.lag ?? 0) > 1);
    cpu.hide(content.cpu === null);
    cpu.value(`${Math.round((content.cpu ?? 0) * 100)} %`);
    showGpus(content.gpus);
    settings.show(content);
    dead.value(count(content.deadLetters));
    const listed = columns.deadLetters.reduce((sum, n) => sum + n, 0);
    const others = Math.max(content.deadLetters - listed, 0);
    dead.label(`dead letter${content.deadLetters === 1 ? "" : "s"}${others ? `, ${count(others)} of former kernels` : ""}`);
    dead.title(
      `messages that were not handled${others ? ": the count of a kernel begins anew when it is launched again, so those of before stand in no row" : ""}`,
    );

    const none = !order.length;
    grid.hidden = none;
    empty.hidden = !none;
    if (none) write.empty(ids.length ? "<p>No kernel matches the filter.</p>" : EMPTY);
    write.height(order.length);
    write.rowCount(String(order.length + 1));
    const height = rowHeight();
    const first = Math.max(0, Math.floor(grid.scrollTop / height) - OVERSCAN);
    const last = Math.min(order.length, Math.ceil((grid.scrollTop + grid.clientHeight) / height) + OVERSCAN);
    const rows = none ? 0 : Math.max(last - first, Math.min(order.length, 16));
    while (pool.length < rows) pool.push(row());
    const used = new Set();
    for (let at = first; at < Math.min(order.length, first + rows); at++) {
      const line = pool[at % pool.length];
      used.add(line);
      fill(line, order[at], at);
    }
    for (const line of pool) if (!used.has(line)) line.show(false);
    const cursor = ui.cursor === null ? -1 : order.findIndex((i) => ids[i] === ui.cursor);
    write.active(cursor >= first && cursor < first + rows ? `${scope}-${cursor}` : null);

    const chosen = selection();
    write.selected(
      only
        ? ""
        : chosen.length
        ? `${count(chosen.length)} of ${count(ids.length)} selected`
        : ids.length
          ? "click a kernel to select it"
          : "",
    );
    for (const { verb, hide, disabled, title } of buttons) {
      hide(verb === "activate" && !content.counts[STATES.indexOf("LAUNCHED")]); // most are activated at once
      const apt = chosen.filter((i) => LOOK[STATES[columns.state[i]]]?.verbs.includes(verb));
      const off = !view.acts || !apt.length;
      disabled(off);
      title(
        !view.acts
          ? view.idle
          : !chosen.length
            ? `select the kernels to ${verb}`
            : apt.length
              ? `${verb} ${apt.length === 1 ? ids[apt[0]] : `${apt.length} kernels`}`
              : `none of the selected can be ${PAST[verb]}`,
      );
    }
    notes.show(content);
    for (const [column, sorted] of sorters)
      sorted(ui.sort.column === column ? (ui.sort.down ? "descending" : "ascending") : null);
  }

  /** The first GPU, and how many more there are. */
  function showGpus(gpus) {
    const [first] = gpus;
    gpu.hide(!first);
    if (!first) return;
    const busy = first.utilisation === null ? "" : ` · ${Math.round(first.utilisation * 100)} %`;
    gpu.value(`${first.name.replace(/^NVIDIA /, "")}${busy}`);
    const memory = (one) => (one.used === null ? "" : ` · ${gibibytes(one.used)} of ${gibibytes(one.memory)} GiB`);
    gpu.label(`${gpus.length > 1 ? `GPU, 1 of ${gpus.length}` : "GPU"}${memory(first)}`);
    gpu.title(gpus.map((one) => `${one.name}${memory(one)}`).join("\n"));
  }

  // -- what the kernel says --------------------------------------------------------------------------------------------

  function arrived(content, buffers) {
    if (content.ids) adopt(content);
    else if (content.roster !== roster) return false;
    const before = columns?.state.length;
    columns = unpack(buffers[0]);
    if (buffers[1]) history(content, buffers[1]);
    else extend(content, columns.rate);
    if (before !== columns.state.length) sortedAt = -1e9;
  }

  function adopt(content) {
    const former = new Map(ids.map((id, i) => [id, sparks[i]]));
    ids = content.ids;
    tags = content.tags;
    roster = content.roster;
    sparks = ids.map((id) => former.get(id) ?? new Float32Array(content.points).fill(NaN));
    sortedAt = -1e9;
  }

  function history({ points, moment: latest }, view) {
    const values = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    moment = latest;
    sparks.forEach((spark, i) => {
      for (let k = 0; k < points; k++) spark[(latest + 1 + k) % points] = values[i * points + k];
    });
  }

  /** Put the rates at their moment; a short hole gets the same, a long one stays open. */
  function extend({ points, moment: latest, step }, rates) {
    const hole = moment < 0 || (latest - moment) * step > 2.5;
    for (let k = Math.max(moment, latest - points) + 1; k <= latest; k++) {
      for (let i = 0; i < sparks.length; i++) sparks[i][k % points] = hole && k < latest ? NaN : rates[i];
    }
    moment = latest;
  }

  /** bqplot says nothing to those who do not see its charts; the table has what they show. */
  function labelCharts() {
    for (const chart of root.closest(".pydotcompute")?.querySelectorAll(".bqplot .svg-figure:not([role])") ?? []) {
      const title = chart.closest(".bqplot").parentElement.querySelector(".pdc-title")?.textContent ?? "Chart";
      chart.setAttribute("role", "img");
      chart.setAttribute(
        "aria-label",
        `${title} over time, of the kernels in the legend; the table has the present values`,
      );
    }
  }

  // -- what the user does ----------------------------------------------------------------------------------------------

  function selection() {
    const chosen = [];
    for (let i = 0; i < ids.length; i++) if (only || ui.selected.has(ids[i])) chosen.push(i);
    return chosen;
  }

  function command(verb) {
    const apt = selection().filter((i) => LOOK[STATES[columns.state[i]]]?.verbs.includes(verb));
    for (const i of apt) view.command(verb, ids[i]);
    if (apt.length > 1) view.say(`${verb} ${apt.length} kernels …`);
  }

  function select(chosen) {
    ui.selected = new Set(chosen);
    view.set("kernels", [...ui.selected].slice(0, SERIES));
    view.redraw();
  }

  function sortBy(column) {
    const numeric = column !== "id" && column !== "state";
    if (ui.sort.column !== column) ui.sort = { column, down: numeric };
    else if (ui.sort.down === numeric) ui.sort = { column, down: !numeric };
    else ui.sort = { column: null, down: false };
    sortedAt = -1e9;
    view.redraw();
  }

  function pick(at, event) {
    if (only) return;
    const id = ids[order[at]];
    if (event.shiftKey && ui.cursor !== null) {
      const from = Math.max(
        0,
        order.findIndex((i) => ids[i] === ui.cursor),
      );
      select(order.slice(Math.min(from, at), Math.max(from, at) + 1).map((i) => ids[i]));
      return;
    }
    const was = ui.selected.has(id);
    const more = event.ctrlKey || event.metaKey ? [...ui.selected].filter((other) => other !== id) : [];
    ui.cursor = id;
    select(was && (more.length || ui.selected.size === 1 || event.ctrlKey) ? more : [...more, id]);
  }

  on(body, "click", (event) => {
    const at = event.target.closest(".pdc-row")?.dataset.at;
    if (at !== undefined) pick(Number(at), event);
  });
  on(grid, "keydown", (event) => {
    if (event.target !== grid || !order.length) return;
    const at = order.findIndex((i) => ids[i] === ui.cursor);
    const page = Math.max(1, Math.floor(grid.clientHeight / rowHeight()) - 2);
    const to = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: order.length - 1,
    }[event.key];
    if (to !== undefined) {
      const next = Math.min(Math.max(to, 0), order.length - 1);
      ui.cursor = ids[order[next]];
      const height = rowHeight();
      // The row of titles sticks to the top and covers what lies below it.
      const top = next * height;
      if (top < grid.scrollTop) grid.scrollTop = top;
      else if (top + 2 * height > grid.scrollTop + grid.clientHeight)
        grid.scrollTop = top + 2 * height - grid.clientHeight;
      view.redraw();
    } else if ((event.key === " " || event.key === "Enter") && at >= 0) {
      pick(at, { ctrlKey: true });
    } else if (event.key === "Escape") {
      select([]);
    } else return;
    event.preventDefault();
  });
  on(grid, "focus", () => {
    if (ui.cursor === null && order.length) ui.cursor = ids[order[0]];
    view.redraw();
  });
  on(grid, "scroll", view.redraw, { passive: true });
  function seek(words) {
    ui.filter = filter.value = words;
    sortedAt = -1e9;
    grid.scrollTop = 0;
    view.redraw();
  }
  on(filter, "input", () => seek(filter.value));

  return { arrived, draw, pulse: labelCharts, opened: () => ui.selected.size && select(ui.selected) };
}

function start(view, ui) {
  const layout = view.model.get("layout_name");
  return layout === "compact" ? line(view) : table(view, ui, layout === "embed" ? view.model.get("kernel") : null);
}

/** One per widget: what its views have in common lives here, so that a view drawn anew goes on where it was. */
export default () => {
  const ui = { filter: "", sort: { column: null, down: false }, selected: new Set(), cursor: null, open: new Map() };
  const title = (model) => model.get("kernel") || "Ring kernels";
  return { render: live({ title, start: (view) => start(view, ui) }) };
};
