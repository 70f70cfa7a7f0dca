// Blind comparison: pairs of one prompt and seed by two policies, in an order and on sides that a seed shuffles.
const FILE_FORMAT = 1;
const pair = document.getElementById("pair");
const sides = [...pair.querySelectorAll("video")];
const order = document.getElementById("order");

/** Returns a generator of numbers in [0, 1) that is the same for a seed (Mulberry32). */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Returns all pairs [left, right] of trials. Two videos of the same bytes cannot differ and make no pair. */
function allPairs(seed) {
  const groups = Map.groupBy(Object.entries(DATA.trials), ([, one]) => JSON.stringify([one.prompt, one.seed]));
  const pairs = [];
  for (const group of groups.values()) {
    group.forEach(([left, one], index) => {
      for (const [right, other] of group.slice(index + 1)) {
        if (one.digest && other.digest && one.digest !== other.digest) pairs.push([left, right]);
      }
    });
  }
  const draw = random(seed);
  for (let index = pairs.length - 1; index > 0; index--) {
    const other = Math.floor(draw() * (index + 1));
    [pairs[index], pairs[other]] = [pairs[other], pairs[index]];
  }
  return pairs.map((one) => (draw() < 0.5 ? one : one.toReversed()));
}

let pairs = [];
let answers = []; // "left", "right" or "tie", in the order of the pairs
let numSaved = 0;

async function ask() {
  const next = pairs[answers.length];
  const isOver = !next;
  pair.hidden = isOver;
  document.getElementById("progress").textContent = `${answers.length} of ${pairs.length} pairs answered`;
  const finished = document.getElementById("finished");
  finished.hidden = !isOver;
  finished.textContent = pairs.length ? "That was the last pair. Download your preferences below." : "There is nothing to compare: no prompt has different videos of two policies.";
  document.getElementById("undo").disabled = document.getElementById("save").disabled = !answers.length;
  document.getElementById("reveal").disabled = !answers.length;
  order.disabled = Boolean(answers.length); // a new order would give the answers to other pairs
  if (!document.getElementById("rates").hidden) showRates();
  if (isOver) return;
  pair.querySelector(".asked").textContent = DATA.trials[next[0]].prompt;
  for (const video of sides) video.pause();
  await Promise.all(sides.map((video, side) => give(video, next[side])));
  for (const video of sides) video.currentTime = 0;
  if (!REDUCED.matches) play();
}

const play = () => Promise.allSettled(sides.map((video) => video.play()));

function togglePair() {
  if (sides[0].paused) play();
  else for (const video of sides) video.pause();
}

function answer(preference) {
  if (answers.length === pairs.length) return;
  answers.push(preference);
  ask();
}

function takeBack() {
  answers.pop();
  ask();
}

/** Returns what was answered, as `python -m experiments.report --preferences` reads it. */
function preferences() {
  return {
    format: FILE_FORMAT,
    run: DATA.run,
    viewer: document.getElementById("viewer").value,
    order: Number(order.value),
    preferences: answers.map((preference, index) => {
      const [left, right] = pairs[index].map((trial) => DATA.trials[trial]);
      const side = ({ trial, policy }) => ({ trial, policy });
      return { prompt: left.prompt, seed: left.seed, left: side(left), right: side(right), preference };
    }),
  };
}

function save() {
  const text = JSON.stringify(preferences(), null, 1);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  numSaved = answers.length;
  make("a", { href: url, download: `preferences-${DATA.run}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Shows how often each policy was preferred to each other one; ties count half. */
function showRates() {
  const counts = new Map();
  for (const { left, right, preference } of preferences().preferences) {
    const won = { left: 1, tie: 0.5, right: 0 }[preference];
    for (const [one, other, score] of [[left, right, won], [right, left, 1 - won]]) {
      for (const against of ["all", other.policy]) {
        const key = JSON.stringify([one.policy, against]);
        const { wins, number } = counts.get(key) ?? { wins: 0, number: 0 };
        counts.set(key, { wins: wins + score, number: number + 1 });
      }
    }
  }
  const policies = [...new Set(Object.values(DATA.trials).map((one) => one.policy))];
  const of = (one, against) => counts.get(JSON.stringify([one, against])) ?? { wins: 0, number: 0 };
  const share = ({ wins, number }) => (number ? wins / number : 0);
  const asked = policies.filter((policy) => of(policy, "all").number);
  asked.sort((a, b) => share(of(b, "all")) - share(of(a, "all")));
  const percent = (found) => (found.number ? `${(100 * share(found)).toFixed(0)} % of ${found.number}` : "–");
  const cell = (text) => make("td", {}, text);
  const rows = asked.map((policy) => {
    const bar = make("i");
    bar.style.width = `${100 * share(of(policy, "all"))}%`;
    const first = make("td", {}, make("span", { class: "rate" }, bar), percent(of(policy, "all")));
    const against = asked.map((other) => cell(other === policy ? "" : percent(of(policy, other))));
    return make("tr", {}, make("th", { scope: "row" }, policy), first, ...against);
  });
  const header = ["preferred", "in all", ...asked.map((policy) => `to ${policy}`)].map((text) => make("th", { scope: "col" }, text));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...header)), make("tbody", {}, ...rows));
  document.getElementById("rates").replaceChildren(
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Win rates" }, table),
    make("p", { class: "keys" }, "Ties count half. Whoever has seen this is no longer blind to what they know the look of."),
  );
}

document.getElementById("reveal").addEventListener("click", ({ currentTarget }) => {
  const rates = document.getElementById("rates");
  rates.hidden = !rates.hidden;
  currentTarget.setAttribute("aria-expanded", !rates.hidden);
  currentTarget.textContent = rates.hidden ? "Show win rates" : "Hide win rates";
  if (!rates.hidden) showRates();
});
for (const button of pair.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
for (const video of sides) video.addEventListener("click", togglePair);
document.getElementById("undo").addEventListener("click", takeBack);
document.getElementById("save").addEventListener("click", save);
order.addEventListener("change", () => { pairs = allPairs(Number(order.value)); ask(); });

addEventListener("beforeunload", (event) => {
  if (answers.length && answers.length !== numSaved) event.preventDefault(); // the browser asks whether to lose them
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, a, button") && !["ArrowLeft", "ArrowRight", "ArrowDown"].includes(event.key);
  if (document.documentElement.dataset.view !== "blind" || pair.hidden || isTyping || event.target.matches("input")) return;
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const act = {
    ArrowLeft: () => answer("left"), ArrowRight: () => answer("right"), ArrowDown: () => answer("tie"),
    " ": togglePair, Backspace: () => { if (answers.length) takeBack(); },
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
document.addEventListener("view", ({ detail }) => {
  if (detail !== "blind") {
    for (const video of sides) video.pause();
  } else if (!pairs.length) {
    pairs = allPairs(Number(order.value));
    ask();
  }
});
