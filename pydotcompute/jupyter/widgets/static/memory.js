// The two sides of buffers, and what moves between them. Follows common.js.
const MOVE = 700; // milliseconds that a transfer is on its way, for the eye

/** "3.9 KiB" */
function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = 0;
  while (bytes >= 1024 && power < units.length - 1) {
    bytes /= 1024;
    power += 1;
  }
  return `${power ? bytes.toFixed(1) : Math.round(bytes)} ${units[power]}`;
}
const counted = (n, noun, plural = `${noun}s`) => `${count(n)} ${n === 1 ? noun : plural}`;

/** How a side is: word, tone, shape; memory.py has the same words. */
function sideLook(buffer, device) {
  if (device && !buffer.allocated) return ["not allocated", "idle", RING];
  if (buffer.host && buffer.device) return ["up to date", "ok", DISC];
  return buffer[device ? "device" : "host"] ? ["newest", "ok", DISC] : ["out of date", "warn", BARS];
}

/** One side of a buffer. */
function sideBox(device) {
  const name = h("b", {}, device ? "device" : "host");
  const icon = svg(DISC);
  const word = h("span");
  const state = h("span", { class: "pdc-state" }, icon, word);
  const el = h("div", { class: "pdc-mem-side" }, name, state);
  const write = {
    name: text(name),
    word: text(word),
    tone: attribute(state, "data-tone"),
    shape: attribute(icon.firstChild, "d"),
    look: attribute(el, "data-look"),
  };
  return {
    el,
    draw(buffer) {
      const [words, tone, path] = sideLook(buffer, device);
      if (device) write.name(buffer.gpu === null ? "device" : `GPU ${buffer.gpu}`);
      write.word(words);
      write.tone(tone);
      write.shape(path);
      write.look(device && !buffer.allocated ? "none" : tone === "ok" ? "fresh" : "old");
    },
  };
}

/** Copies in one direction: a line with an arrow head, which a dot runs along when there is one. */
function arrow(toDevice) {
  const words = h("span", { class: "pdc-mem-copies" });
  const rate = h("span", { class: "pdc-mem-rate" });
  const line = h("div", { class: "pdc-mem-line", "aria-hidden": "true" });
  const el = h("div", { class: `pdc-mem-arrow ${toDevice ? "pdc-mem-to-device" : "pdc-mem-to-host"}` }, line, words, rate);
  const write = {
    words: text(words),
    rate: text(rate),
    beat: attribute(line, "data-beat"),
    on: field((on) => el.classList.toggle("pdc-mem-on", on)),
    title: attribute(el, "title"),
  };
  let known = null;
  let beat = 0;
  let moved = -1e9;
  return {
    el,
    draw({ count: n, bytes, rate: perSecondNow }) {
      const now = performance.now();
      if (known !== null && n > known && now - moved > MOVE) {
        moved = now;
        beat = 1 - beat;
        write.beat(String(beat)); // another name of the same animation: it begins again
      }
      known = n;
      write.on(perSecondNow >= 1 || now - moved < MOVE);
      write.words(n ? `${count(n)} × · ${size(bytes)}` : "none yet");
      write.rate(perSecondNow >= 1 ? `${size(perSecondNow)}/s` : "");
      write.title(`copied from ${toDevice ? "host to device" : "device to host"}: ${counted(n, "time")}, ${size(bytes)}`);
    },
  };
}

/** A buffer. */
function card() {
  const name = h("b");
  const what = h("span", { class: "pdc-mem-what" });
  const user = h("span", { class: "pdc-tag" });
  const host = sideBox(false);
  const device = sideBox(true);
  const there = arrow(true);
  const back = arrow(false);
  const between = h("div", { class: "pdc-mem-between" }, there.el, back.el);
  const both = h("div", { class: "pdc-mem-sides" }, host.el, between, device.el);
  const word = h("div", { class: "pdc-mem-one" });
  const el = h("li", { class: "pdc-mem-buffer" }, h("div", { class: "pdc-mem-title" }, name, what, user), both, word);
  const write = {
    name: text(name),
    what: text(what),
    user: text(user),
    unused: field((unused) => (user.hidden = unused)),
    apart: field((apart) => {
      both.hidden = !apart;
      word.hidden = apart;
    }),
    word: text(word),
    gone: field((gone) => el.classList.toggle("pdc-mem-gone", gone)),
  };
  return {
    el,
    draw(buffer) {
      write.name(buffer.name);
      const whole = buffer.whole === null ? "" : `, part of ${size(buffer.whole)}`;
      write.what(`${buffer.shape} ${buffer.dtype} · ${size(buffer.bytes)}${whole}`);
      write.user(buffer.kernel ? `ring kernel ${buffer.kernel} works on it` : "");
      write.unused(!buffer.kernel);
      write.gone(buffer.gone);
      write.apart(!buffer.gone && !buffer.shared);
      write.word(buffer.gone ? "given up" : buffer.shared ? "host = device: one memory, nothing is copied" : "");
      if (buffer.gone || buffer.shared) return;
      host.draw(buffer);
      device.draw(buffer);
      there.draw(buffer.toDevice);
      back.draw(buffer.toHost);
    },
  };
}

/** A pool: how full it is, and how often memory was there already. */
function poolBlock() {
  const name = h("b");
  const over = h("span", { class: "pdc-tag" }, "given up");
  const fact = (label) => {
    const value = h("span");
    return [h("div", {}, h("small", {}, label), value), text(value)];
  };
  const facts = {
    inUse: fact("in use"),
    kept: fact("free"),
    peak: fact("most in use"),
    hits: fact("hits / misses"),
    limit: fact("limit"),
  };
  const used = h("i", { class: "pdc-mem-used" });
  const kept = h("i", { class: "pdc-mem-kept" });
  const mark = h("i", { class: "pdc-mem-peak" });
  const meter = h("div", { class: "pdc-mem-meter", role: "img" }, used, kept, mark);
  const el = h("div", { class: "pdc-mem-pool" }, h("div", { class: "pdc-mem-title" }, name, over), meter, h("div", { class: "pdc-mem-facts" }, ...Object.values(facts).map(([box]) => box)));
  const write = {
    name: text(name),
    used: field((share) => (used.style.width = share)),
    kept: field((share) => (kept.style.width = share)),
    peak: field((share) => (mark.style.left = share)),
    label: attribute(meter, "aria-label"),
    there: field((there) => (over.hidden = there)),
  };
  return {
    el,
    draw(pool) {
      const end = Math.max(pool.limit ?? 0, pool.peak, pool.inUse + pool.kept, 1);
      const share = (bytes) => `${((100 * bytes) / end).toFixed(1)}%`;
      const asked = pool.reused + pool.allocated;
      write.name(pool.name);
      write.there(!pool.gone);
      write.used(share(pool.inUse));
      write.kept(share(pool.kept));
      write.peak(share(pool.peak));
      write.label(`${size(pool.inUse)} in use, ${size(pool.kept)} free, at most ${size(pool.peak)} were in use`);
      facts.inUse[1](`${size(pool.inUse)} in ${counted(pool.buffers, "buffer")}`);
      facts.kept[1](`${size(pool.kept)} in ${counted(pool.blocks, "block")}`);
      facts.peak[1](size(pool.peak));
      facts.hits[1](
        `${count(pool.reused)} / ${count(pool.allocated)}${asked ? ` (${Math.round((100 * pool.reused) / asked)} %)` : ""}`,
      );
      facts.limit[1](pool.limit === null ? "none" : size(pool.limit));
    },
  };
}

/** Keeps one part in `el` for each of the things that are drawn, in their order. */
function listOf(el, make, key) {
  const parts = new Map();
  return (things) => {
    const there = new Set(things.map(key));
    for (const [known, part] of parts) {
      if (there.has(known)) continue;
      part.el.remove();
      parts.delete(known);
    }
    things.forEach((thing, i) => {
      const known = key(thing);
      if (!parts.has(known)) parts.set(known, make());
      const part = parts.get(known);
      if (el.children[i] !== part.el) el.insertBefore(part.el, el.children[i] ?? null);
      part.draw(thing);
    });
  };
}

function start(view) {
  const totals = h("span", { class: "pdc-mem-totals" });
  const pools = h("div", { class: "pdc-mem-pools" });
  const buffers = h("ul", { class: "pdc-mem-buffers", tabindex: "0", "aria-label": "Buffers" });
  const empty = h(
    "div",
    { class: "pdc-empty" },
    h("p", {}, "No buffer is in use."),
    h("p", {}, "Take one from the pool: ", h("code", {}, "pool.empty((1000, 3), np.float32)")),
  );
  const more = h("span");
  view.head.append(totals);
  view.body.append(pools, buffers, empty);
  view.foot.append(more);
  const write = {
    totals: text(totals),
    more: text(more),
    none: field((none) => (buffers.hidden = none)),
    empty: field((none) => (empty.hidden = !none)),
  };
  const drawPools = listOf(pools, poolBlock, (pool) => pool.name);
  const drawBuffers = listOf(buffers, card, (buffer) => buffer.number);
  empty.hidden = true;
  return {
    arrived() {},
    draw() {
      const { content } = view.frame;
      drawPools(content.pools);
      drawBuffers(content.rows);
      const { totals: all } = content;
      write.none(content.rows.length === 0);
      write.empty(content.rows.length === 0 && !content.pools.some((pool) => pool.gone));
      write.totals(
        `${counted(all.buffers, "buffer")} · ${size(all.bytes)}${all.shared ? " · no GPU: host and device are one" : ""}`,
      );
      write.more(all.more ? `${count(all.more)} more, between whose sides less is copied` : "");
    },
  };
}

export default () => ({ render: live({ title: "Memory", start }) });
