// What the modules of all widgets begin with (see live.py); the wire is that of jupyter/schema.py.
const VERSION = 3;
const TARGET = "pydotcompute.control";
const STATES = ["CREATED", "LAUNCHED", "ACTIVE", "DEACTIVATED", "TERMINATING", "TERMINATED", "FAILED"];

// What the states look like: word, tone, shape on 10 by 10 units, what can be done.
const RING = "M5 .7a4.3 4.3 0 1 0 0 8.6a4.3 4.3 0 1 0 0-8.6zm0 1.6a2.7 2.7 0 1 1 0 5.4a2.7 2.7 0 1 1 0-5.4z";
const DISC = "M5 .5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z";
const BARS = "M1 1h3v8h-3zM6 1h3v8h-3z";
const SQUARE = "M1 1h8v8h-8z";
const TRIANGLE = "M5 .5l4.8 9h-9.6z";
const PLAY = "M1.5 .5l8 4.5l-8 4.5z";
const AGAIN = "M5 1a4 4 0 1 0 3.9 4.8h-1.6a2.5 2.5 0 1 1-2.3-3.3c.6 0 1.2.2 1.6.6l-1.4 1.4h4v-4l-1.5 1.5a4 4 0 0 0-2.7-1z";
const DOWN = "M0 3h10l-5 5.5z";
const LOOK = {
  CREATED: { word: "created", tone: "idle", shape: RING, verbs: [] },
  LAUNCHED: {
    word: "launched",
    tone: "idle",
    shape: RING,
    verbs: ["activate", "stop"],
    hint: "waits to be activated: select it and press Activate, or await runtime.activate(…)",
  },
  ACTIVE: { word: "active", tone: "ok", shape: DISC, verbs: ["pause", "restart", "stop"] },
  DEACTIVATED: {
    word: "paused",
    tone: "warn",
    shape: BARS,
    verbs: ["resume", "step", "restart", "stop"],
    hint: "queues messages until it is resumed",
  },
  TERMINATING: {
    word: "stopping",
    tone: "warn",
    shape: "M5 .5a4.5 4.5 0 1 0 0 9z",
    verbs: [],
    hint: "handles what is queued",
  },
  TERMINATED: { word: "ended", tone: "idle", shape: SQUARE, verbs: ["restart"] },
  FAILED: { word: "failed", tone: "bad", shape: TRIANGLE, verbs: ["restart"] },
};
/** What the verbs of commands have done to a kernel. */
const PAST = { activate: "activated", pause: "paused", resume: "resumed", step: "stepped", restart: "restarted", stop: "stopped" };

// -- words -------------------------------------------------------------------------------------------------------------

const NUMBER = new Intl.NumberFormat("en");

function count(n) {
  return n < 1000 ? String(n) : NUMBER.format(n);
}

/** A count where there is little room: "1.5k". */
function short(n) {
  for (const [unit, scale] of [
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ]) {
    if (n >= scale) return `${Number((n / scale).toPrecision(3))}${unit}`;
  }
  return String(n);
}

/** "0.4", "1,234", "123 k", "12.3 M": six characters at most. */
function perSecond(rate) {
  if (Number.isNaN(rate)) return "–";
  for (const [unit, scale] of [
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ]) {
    const value = rate / scale;
    if (value < (unit === "k" ? 99.95 : 0.9995)) continue;
    return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
  }
  return rate === 0 ? "0" : rate < 9.95 ? rate.toFixed(1) : count(Math.round(rate));
}

/** [number, unit]: "2.1", "µs". */
function duration(seconds) {
  for (const [unit, scale] of [
    ["ns", 1e9],
    ["µs", 1e6],
    ["ms", 1e3],
    ["s", 1],
  ]) {
    const value = seconds * scale;
    const digits = value < 9.95 && unit !== "ns" ? 1 : 0;
    if (value < 999.5 || unit === "s") return [digits ? value.toFixed(1) : count(Math.round(value)), unit];
  }
}

/** "88 / 412 µs": p50 and p99, one unit when it is the same. */
function percentiles(p50, p99) {
  if (Number.isNaN(p50)) return "–";
  const [a, aUnit] = duration(p50);
  const [b, bUnit] = duration(p99);
  return aUnit === bUnit ? `${a} / ${b} ${bUnit}` : `${a} ${aUnit} / ${b} ${bUnit}`;
}

// -- DOM ---------------------------------------------------------------------------------------------------------------

function h(tag, attributes = {}, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
  el.append(...children);
  return el;
}

/** One shape, by default an icon on 10 by 10 units. */
function svg(path, attributes = { viewBox: "0 0 10 10", "aria-hidden": "true" }) {
  return shape("svg", attributes, shape("path", { d: path }));
}

/** An element of SVG. */
function shape(tag, attributes = {}, ...children) {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
  el.append(...children);
  return el;
}

/** A writer that touches the DOM only when the value has changed. */
function field(write) {
  let last;
  return (value) => {
    if (value === last) return;
    last = value;
    write(value);
  };
}
const text = (el) => field((value) => (el.textContent = value));
const attribute = (el, name) =>
  field((value) => (value === null ? el.removeAttribute(name) : el.setAttribute(name, value)));

// -- the connection ----------------------------------------------------------------------------------------------------

/**
 * A comm of our own to the kernel, opened from here: its messages arrive while a cell blocks (see jupyter/comm.py).
 * Returns send(message); `heard` gets each acknowledgement. Hosts that let nobody open comms get the widget's own.
 */
async function connect(model, signal, heard, lost) {
  const manager = model.widget_manager;
  const whole = (message) => ({ version: VERSION, ...message });
  if (typeof manager?._create_comm !== "function") {
    model.send(whole({ kind: "hello", widget: model.get("key") }));
    return (message) => model.send(whole(message));
  }
  const comm = await manager._create_comm(TARGET, crypto.randomUUID?.() ?? `${Math.random()}`.slice(2));
  // A message sent before the comm's subshell is up would wait for the cell that runs, and later ones overtake it.
  const raw = comm.jsServicesComm;
  if (raw?.subshellStarted && manager.kernel?.supportsSubshells !== false) {
    await Promise.race([raw.subshellStarted.catch(() => {}), new Promise((resolve) => setTimeout(resolve, 3000))]);
  }
  comm.on_msg((message) => heard(message.content.data));
  comm.on_close(() => lost());
  comm.open(whole({ kind: "hello", widget: model.get("key") }));
  const send = (message) => {
    try {
      comm.send(whole(message));
    } catch {
      lost(); // the kernel is gone
    }
  };
  const close = () => {
    try {
      comm.close();
    } catch {
      // the kernel was gone before
    }
  };
  if (signal.aborted) close();
  else signal.addEventListener("abort", close);
  return send;
}

// -- the view ----------------------------------------------------------------------------------------------------------

/**
 * The render function of a widget: a head with its title (or what it makes of the model), a body, and a foot that says how the connection is.
 *
 * `start(view)` fills the body, and returns what the widget does:
 *   arrived(content, buffers)  takes a frame in; false: it cannot be drawn yet
 *   draw()                     draws it, at most once for each picture of the page
 *   pulse()                    (optional) each second while the view can be seen
 *   opened()                   (optional) the kernel listens: choices that outlived a view are said again here
 *   close()                    (optional) the view is taken away
 */
function live({ title, start }) {
  return ({ model, el }) => {
    const stop = new AbortController();
    const { signal } = stop;
    const on = (target, type, listener, options = {}) => target.addEventListener(type, listener, { signal, ...options });

    let frame = null; // {content, buffers}
    let undrawn = false;
    let came = 0; // frames, and how many of them were not drawn: since it was last looked whether the page keeps up
    let skipped = 0;
    let pulses = 0;
    let arrived = performance.now();
    let acknowledged = 0;
    let acknowledgedAt = 0;
    let askedAt = -1e9;
    let trouble = ""; // why there is no connection
    let said = { text: "", bad: false };
    let visible = false;
    let send = () => {};
    const asked = new Map(); // request: {verb, kernel}

    const freeze = h("button", { type: "button", title: "keep this picture, here and in the saved notebook" }, "Freeze");
    const say = h("div", { class: "pdc-say", role: "status" });
    const liveWord = h("span");
    const status = h("span", { class: "pdc-live", role: "status" }, svg(DISC), liveWord);
    const slow = h("span", { title: "each picture shows all there is, so what counts is the next one" });
    const slots = { head: h("div", { class: "pdc-slot" }), foot: h("span", { class: "pdc-slot" }) };
    const head = h("div", { class: "pdc-head" }, h("h2", {}, typeof title === "function" ? title(model) : title), slots.head, freeze);
    const body = h("div", { class: "pdc-main" });
    const foot = h("div", { class: "pdc-foot" }, status, slots.foot, h("span", { class: "pdc-grow" }), say, slow);
    // JupyterLab's single-key shortcuts are not meant for what is typed here.
    const root = h("div", { class: "pdc", "data-lm-suppress-shortcuts": "true" }, head, body, foot);
    el.append(root);
    on(root, "keydown", (event) => event.stopPropagation());

    const write = {
      live: text(liveWord),
      tone: attribute(status, "data-tone"),
      number: attribute(foot, "data-frame"),
      slow: text(slow),
      say: text(say),
      sayTitle: attribute(say, "title"),
      sayBad: field((bad) => say.classList.toggle("pdc-bad", bad)),
      frozen: field((frozen) => freeze.classList.toggle("pdc-primary", frozen)),
      freezeWord: text(freeze),
      over: field((over) => (freeze.disabled = over)),
    };

    const view = {
      model,
      root,
      head: slots.head,
      body,
      foot: slots.foot,
      say: (words, bad = false) => {
        said = { text: words, bad };
        view.redraw();
      },
      /** Where results are said: at the foot, unless it is put elsewhere. */
      sayer: say,
      signal,
      on,
      get frame() {
        return frame;
      },
      get visible() {
        return visible;
      },
      /** Whether buttons can act; else why not. */
      get acts() {
        return !!frame && frame.content.status === "live" && !trouble;
      },
      get idle() {
        return trouble || (frame ? `the picture is ${frame.content.status}` : "nothing has come yet");
      },
      redraw() {
        if (undrawn) return;
        undrawn = true;
        requestAnimationFrame(redrawn);
      },
      set: (name, value) => send({ kind: "set", name, value }),
      /** Its result is said when it comes, or given to `take(ok, words)`. */
      command(verb, kernel, args = {}, take = null) {
        const request = crypto.randomUUID?.() ?? String(Math.random());
        asked.set(request, { verb, kernel, take });
        send({ kind: "command", verb, kernel, request, arguments: args });
        if (!take) view.say(`${verb} ${kernel} …`);
      },
      /** Ask for everything that there is. */
      snapshot() {
        if (performance.now() - askedAt < 1000) return;
        askedAt = performance.now();
        send({ kind: "snapshot" });
      },
    };

    function redrawn() {
      undrawn = false;
      if (signal.aborted) return;
      const state = frame?.content.status;
      const age = (performance.now() - arrived) / 1000;
      const [word, tone] = trouble
        ? [trouble, "warn"]
        : !frame
          ? ["waiting for the first frame", "idle"]
          : state === "frozen"
            ? ["frozen", "warn"]
            : state === "closed"
              ? [frame.content.closed ?? "runtime closed", "warn"]
              : age > 3
                ? [`no frame for ${Math.round(age)} s: the kernel is busy or gone`, "warn"]
                : [frame.content.live ?? "live", frame.content.live ? "idle" : "ok"];
      write.live(word);
      write.tone(tone);
      write.say(said.text);
      write.sayTitle(said.text || null);
      write.sayBad(said.bad);
      if (!frame) return;
      write.frozen(state === "frozen");
      write.freezeWord(state === "frozen" ? "Go on" : "Freeze");
      write.over(state === "closed");
      widget.draw();
      write.number(String(frame.content.number)); // for who has to know when it was drawn
      const now = performance.now();
      if (visible && frame.content.number > acknowledged && now - acknowledgedAt >= 1000) {
        acknowledgedAt = now;
        acknowledged = frame.content.number;
        send({ kind: "received", number: acknowledged });
      }
    }

    const heard = (data) => data?.refused && view.say(data.refused, true);

    function received(content, buffers) {
      if (content.kind === "acknowledgement") return heard(content);
      if (content.kind === "trouble") {
        arrived = performance.now();
        return view.say(content.text, true);
      }
      if (content.kind !== "frame") return;
      if (content.version !== VERSION) {
        trouble = `the kernel speaks version ${content.version} of the wire, this page ${VERSION}: reload the page`;
        return view.redraw();
      }
      if (!root.isConnected) return; // taken off the page for now: once it is back in sight, a snapshot comes
      if (widget.arrived(content, buffers) === false) return view.snapshot();
      came++;
      if (undrawn && frame) skipped++;
      frame = { content, buffers };
      arrived = performance.now();
      for (const { request, ok, text: words } of content.results) {
        const what = asked.get(request);
        if (!what) continue;
        asked.delete(request);
        if (what.take) what.take(ok, words);
        else if (ok) said = { text: words || `${what.kernel} ${PAST[what.verb] ?? what.verb}`, bad: false };
        else said = { text: `${what.verb} ${what.kernel}: ${words}`, bad: true };
      }
      view.redraw();
    }

    on(freeze, "click", () => send({ kind: "freeze", on: frame?.content.status !== "frozen" }));

    // -- whether anybody can see it

    let inSight = false;
    function look() {
      const now = inSight && document.visibilityState === "visible";
      if (now === visible) return;
      visible = now;
      send({ kind: "seen", visible });
    }
    const sight = new IntersectionObserver((entries) => {
      inSight = entries.at(-1).isIntersecting;
      look();
    });
    on(document, "visibilitychange", look);

    // -- life

    const widget = start(view);
    model.on("msg:custom", received);
    const pulse = setInterval(() => {
      if (!visible) return;
      if (performance.now() - arrived > 5000) send({ kind: "seen", visible }); // for a kernel that gave this view up
      widget.pulse?.();
      if (++pulses % 5 === 0) {
        write.slow(skipped > came / 4 ? `this page is slow: ${count(skipped)} of the last ${count(came)} pictures left out` : "");
        came = skipped = 0;
      }
      view.redraw(); // the age of the picture
    }, 1000);
    const lost = (why) => {
      trouble = why;
      view.redraw();
    };
    connect(model, signal, heard, () => lost("no connection to the kernel: run the cell again")).then(
      (connected) => {
        send = connected;
        widget.opened?.();
        sight.observe(root);
      },
      (error) => lost(`no connection to the kernel: ${error.message}`),
    );
    view.redraw();

    return () => {
      stop.abort();
      model.off("msg:custom", received);
      sight.disconnect();
      clearInterval(pulse);
      widget.close?.();
    };
  };
}
