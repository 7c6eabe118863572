// The queue of one ring kernel, message by message. Follows common.js.
Object.assign(PAST, { inject: "injected", discard: "discarded", move: "moved", break: "set" });

function start(view) {
  const { on } = view;
  let messages = [];
  let typed = false; // in the form of a message
  const scope = `pdc-${Math.random().toString(36).slice(2)}`;
  const kernel = () => view.frame.content.kernel;

  // -- the parts -------------------------------------------------------------------------------------------------------

  const name = h("b");
  const icon = svg("");
  const word = h("span");
  const state = h("span", { class: "pdc-state" }, icon, word);
  const places = h("span", { class: "pdc-tag" });
  view.head.append(name, state, places);

  const button = (label, verb, path, press, title) => {
    const el = h("button", { type: "button", "data-verb": verb, title }, ...(path ? [svg(path)] : []), label);
    on(el, "click", press);
    return { el, title, disabled: field((off) => (el.disabled = off)), hide: field((hide) => (el.hidden = hide)) };
  };
  const steps = h("input", { type: "number", min: "1", max: "1000000", value: "10", "aria-label": "How many steps" });
  const buttons = {
    pause: button("Pause", "pause", BARS, () => view.command("pause", kernel()), "hand out no further message"),
    resume: button("Resume", "resume", PLAY, () => view.command("resume", kernel()), "go on"),
    activate: button("Activate", "activate", PLAY, () => view.command("activate", kernel()), "start the body"),
    step: button("Step 1", "step", null, () => view.command("step", kernel(), { n: 1 }), "handle the next message"),
    stepMany: button(
      "Step",
      "step-many",
      null,
      () => view.command("step", kernel(), { n: Number(steps.value) || 1 }),
      "handle so many messages",
    ),
    up: button("↑", "up", null, () => move(-1), "hand it out earlier"),
    down: button("↓", "down", null, () => move(1), "hand it out later"),
    discard: button("Discard", "discard", null, discard, "make a dead letter of the selected message"),
  };
  buttons.step.el.classList.add("pdc-primary");
  buttons.up.el.setAttribute("aria-label", "Move the selected message forward");
  buttons.down.el.setAttribute("aria-label", "Move the selected message back");
  const bar = h(
    "div",
    { class: "pdc-actions" },
    buttons.activate.el,
    buttons.pause.el,
    buttons.resume.el,
    buttons.step.el,
    h("span", { class: "pdc-mail-pair" }, steps, buttons.stepMany.el),
    buttons.up.el,
    buttons.down.el,
    buttons.discard.el,
  );

  const hand = h("div", { class: "pdc-mail-hand" });
  const list = h("div", {
    class: "pdc-mail-queued",
    role: "listbox",
    tabindex: "0",
    "aria-label": "What is queued, the next message first",
  });
  const note = h("div", { class: "pdc-mail-note" });
  const rings = h("div", { class: "pdc-mail-rings" });
  const detail = h("pre", { class: "pdc-mail-detail", tabindex: "0", "aria-label": "The selected message" });

  const message = h("input", { class: "pdc-mail-code", "aria-label": "Message as JSON", spellcheck: "false" });
  const inject = h("button", { type: "submit", "data-verb": "inject", title: "put it before the selected message" }, "Inject");
  const injecting = h("form", { class: "pdc-mail-form" }, h("label", {}, "message ", message), inject);
  const condition = h("input", {
    class: "pdc-mail-code",
    "aria-label": "Break when",
    spellcheck: "false",
  });
  const set = h("button", { type: "submit", "data-verb": "break", title: "pause before such a message" }, "Set");
  const breaking = h("form", { class: "pdc-mail-form" }, h("label", {}, "break when ", condition), set);
  const forms = h("div", { class: "pdc-mail-forms" }, injecting, breaking);
  view.body.append(bar, hand, list, note, rings, detail, forms);

  const write = {
    name: text(name),
    word: text(word),
    icon: attribute(icon.firstChild, "d"),
    tone: attribute(state, "data-tone"),
    places: text(places),
    hand: text(hand),
    note: text(note),
    detail: text(detail),
    example: attribute(condition, "placeholder"),
    active: attribute(list, "aria-activedescendant"),
    breaks: field((value) => {
      condition.value = value;
      breaking.classList.toggle("pdc-mail-set", !!value);
    }),
  };

  // -- what the user does ----------------------------------------------------------------------------------------------

  const chosen = () => view.frame.content.chosen;
  function choose(place) {
    const last = messages.length - 1;
    if (last >= 0) view.set("selected", Math.min(Math.max(place, 0), last));
  }
  function move(by) {
    const at = chosen();
    const to = Math.min(Math.max(at + by, 0), view.frame.content.depth - 1);
    if (to !== at) view.command("move", kernel(), { at, to, key: messages[at].key });
  }
  function discard() {
    view.command("discard", kernel(), { at: chosen(), key: messages[chosen()].key });
  }
  on(list, "click", (event) => {
    const at = event.target.closest("[data-at]")?.dataset.at;
    if (at !== undefined) choose(Number(at));
  });
  on(list, "keydown", (event) => {
    const to = {
      ArrowRight: chosen() + 1,
      ArrowDown: chosen() + 1,
      ArrowLeft: chosen() - 1,
      ArrowUp: chosen() - 1,
      Home: 0,
      End: messages.length - 1,
    }[event.key];
    if (to !== undefined) choose(to);
    else if (event.key === "Delete" && !buttons.discard.el.disabled) discard();
    else return;
    event.preventDefault();
  });
  on(message, "input", () => (typed = true));
  on(injecting, "submit", (event) => {
    event.preventDefault();
    view.command("inject", kernel(), { message: message.value, at: Math.max(chosen(), 0) });
  });
  on(breaking, "submit", (event) => {
    event.preventDefault();
    view.command("break", kernel(), { condition: condition.value });
  });

  // -- drawing ---------------------------------------------------------------------------------------------------------

  function draw() {
    const { content } = view.frame;
    if (!content.kernel) return;
    const look = LOOK[content.state];
    write.name(content.kernel);
    write.word(look.word);
    write.icon(look.shape);
    write.tone(look.tone);
    write.places(`${count(content.depth)} of ${count(content.bound)}`);
    write.hand(content.inHand === null ? "" : `in hand: ${content.inHand}`);
    hand.hidden = content.inHand === null;
    const rest = content.depth - messages.length;
    const old = content.age > 1 ? `the event loop has been blocked for ${duration(content.age).join(" ")}` : "";
    write.note(
      [old, content.stopped, content.hidden, !content.hidden && rest > 0 ? `and ${count(rest)} more` : "", nothing(content)]
        .filter(Boolean)
        .join(" · "),
    );
    note.hidden = !note.textContent;
    note.classList.toggle("pdc-bad", !!(old || content.stopped));
    drawList(content);
    drawRings(content);
    detail.hidden = content.detail === null;
    write.detail(content.detail === null ? "" : `${content.chosen === 0 ? "next" : `place ${content.chosen}`}: ${content.detail}`);
    if (!typed) message.value = content.template ?? "";
    write.example(example(content.template));
    write.breaks(content.break ?? "");
    drawButtons(content);
  }

  const nothing = ({ depth, hidden }) => (depth || hidden ? "" : "nothing is queued");

  function drawButtons({ state: now }) {
    const acts = view.acts;
    const paused = now === "DEACTIVATED";
    const editable = paused || now === "LAUNCHED";
    const can = {
      activate: now === "LAUNCHED",
      pause: now === "ACTIVE",
      resume: paused,
      step: paused || now === "ACTIVE",
      stepMany: paused || now === "ACTIVE",
      up: editable && chosen() > 0,
      down: editable && chosen() >= 0 && chosen() < view.frame.content.depth - 1,
      discard: editable && chosen() >= 0,
    };
    for (const [what, one] of Object.entries(buttons)) {
      one.disabled(!acts || !can[what]);
      const why = editable && ["up", "down", "discard"].includes(what) ? what === "discard" ? "there is none" : "it cannot go further" : `not while it is ${LOOK[now].word}`;
      one.el.title = !acts ? view.idle : can[what] ? one.title : `${one.title}: ${why}`;
    }
    buttons.activate.hide(now !== "LAUNCHED");
    buttons.resume.hide(!paused);
    buttons.pause.hide(paused || now === "LAUNCHED");
    inject.disabled = !acts || !editable;
    inject.title = editable ? "put it before the selected message" : "pause the kernel first";
    set.disabled = !acts || LOOK[now].verbs.length === 0;
  }

  let drawn = "";
  function drawList({ bound, places: few, chosen: at, hidden }) {
    const free = bound <= few && !hidden ? bound - messages.length : 0;
    const key = JSON.stringify([messages.map(({ waits, ...other }) => other), free]);
    if (key !== drawn) {
      drawn = key;
      list.replaceChildren(
        ...messages.map((one, i) => {
          const tone = one.priority > 128 ? "high" : one.priority < 128 ? "low" : "plain";
          const cell = h(
            "div",
            { class: "pdc-mail-message", role: "option", id: `${scope}-${i}`, "data-at": i, "data-priority": tone },
            h("b", {}, one.type),
            h("span", {}, inner(one)),
            h("small", {}, ""),
          );
          return cell;
        }),
        ...Array.from({ length: Math.max(free, 0) }, () => h("div", { class: "pdc-mail-free", role: "presentation" }, "free")),
      );
    }
    messages.forEach((one, i) => {
      const cell = list.children[i];
      const words = one.priority === 128 ? [] : [`priority ${one.priority}`];
      if (one.waits !== null) words.push(`${words.length ? "" : "for "}${duration(one.waits).join(" ")}`);
      if (one.ask) words.push("ask");
      if (one.attempts) words.push(`failed ${one.attempts} ×`);
      const told = words.join(" · ");
      if (cell.lastChild.textContent !== told) cell.lastChild.textContent = told;
      cell.setAttribute("aria-selected", String(i === at));
      cell.classList.toggle("pdc-mail-next", i === 0);
      cell.title = `${one.text}\npriority ${one.priority}${one.waits === null ? "" : `, queued for ${duration(one.waits).join(" ")}`}`;
    });
    list.hidden = !list.children.length;
    write.active(at >= 0 && at < messages.length ? `${scope}-${at}` : null);
  }

  let ringsDrawn = "";
  function drawRings({ rings: both, places: few, state: now }) {
    const key = JSON.stringify([both, now]);
    if (key === ringsDrawn) return;
    ringsDrawn = key;
    rings.hidden = !both;
    if (!both) return;
    rings.replaceChildren(
      ...Object.entries(both).map(([what, [size, limit, head, tail]]) => {
        const used = tail - head;
        const label = `${what}: ${count(used)} of ${count(limit)}, head ${count(head)}, tail ${count(tail)}`;
        const slots = h("div", { class: "pdc-mail-slots", role: "img", "aria-label": label });
        if (size <= few) {
          for (let place = 0; place < size; place++) {
            const position = head + ((place - head) % size + size) % size;
            const taken = position < tail;
            const slot = h("i", { ...(taken && { class: "pdc-mail-taken" }) }, taken ? short(position) : "");
            const [first, end] = [place === head % size, place === tail % size];
            const right = end && (!first || place > size / 2); // where there is room beside it
            const mark = first && end ? "head and tail" : first ? "head" : end ? "tail" : "";
            if (mark) slot.append(h("em", { ...(right && { class: "pdc-mail-tail" }) }, mark));
            slots.append(slot);
          }
        } else {
          const part = (position) => `${((position % size) / size) * 100}%`;
          for (const [from, to] of head % size <= tail % size && used < size ? [[head, tail]] : [[head, null], [0, tail]]) {
            const bar = h("b");
            bar.style.left = part(from);
            bar.style.right = to === null ? "0" : `calc(100% - ${part(to)})`;
            slots.append(bar);
          }
          slots.classList.add("pdc-mail-strip");
        }
        return h(
          "div",
          { class: "pdc-mail-ring" },
          h("div", {}, h("b", {}, RINGS[what].title), ` ${count(used)} of ${count(limit)} places taken`),
          slots,
          h("p", {}, inWords(RINGS[what], head, used, limit)),
        );
      }),
      h(
        "p",
        {},
        now === "DEACTIVATED"
          ? "It is paused: what waits has been taken back into the mailbox, and is shown above. The numbers go on where they were."
          : "Numbers count what has gone through a ring, from 0. The place of a number is what remains when it is divided by the size of the ring.",
      ),
    );
  }

  return {
    arrived: (content) => void (messages = content.messages ?? []),
    draw,
  };
}

/** What the rings are for, and who is at which end. */
const RINGS = {
  messages: { title: "Messages to the kernel:", one: "message", taker: "the kernel takes", giver: "what is sent" },
  replies: { title: "Replies of the kernel:", one: "reply", taker: "who receives gets", giver: "its next reply" },
};

/** The picture of a ring as a sentence. */
function inWords({ one, taker, giver }, head, used, limit) {
  const at = (n) => `number ${count(n)}`;
  if (!used) return `It is empty: head and tail stand together, and the next ${one} will be ${at(head)}.`;
  const next = `At its head ${taker} ${at(head)} next; `;
  return next + (used >= limit ? `it is full: ${giver} waits until a place is free.` : `at its tail ${giver} becomes ${at(head + used)}.`);
}

/** A condition on a field of these messages. */
function example(template) {
  const [name, value] = Object.entries(JSON.parse(template ?? "{}")).find(([, one]) => typeof one === "number") ?? [];
  return typeof value === "number" ? `msg.${name} > 100` : 'msg == "…"';
}

/** The fields alone: the class stands above them. */
function inner({ type, text: words }) {
  return words.startsWith(`${type}(`) ? words.slice(type.length + 1).replace(/\)$/, "") : words;
}

export default () => ({ render: live({ title: "Mailbox", start }) });
