"use strict";
const $ = (id) => document.getElementById(id);
const pictures = [null, null]; // what the server keeps of both, by name
const cards = [];
let about, tab = "same", asked = 0, hidden = [];

// Make an element with text (never markup, since names of files are anybody's) and children.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

async function ask(name, given) {
  const body = name === "upload" ? given : JSON.stringify(given ?? {});
  let response;
  try {
    response = await fetch("/" + name, { method: "POST", body });
  } catch {
    throw new Error("The lab does not answer: is it still running in the terminal?");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

// Verdicts, in words, sign and color

const word = (verdict) => (verdict.same ? "✓ same" : "✗ different");
const tone = (verdict) => (verdict.same ? "same" : "different");
const chip = (verdict) => make("span", { className: `chip ${tone(verdict)}`, textContent: word(verdict) });
const numbers = (verdict) => `score ${verdict.score.toFixed(2)}, threshold ${verdict.threshold.toFixed(2)}`;

function meter(verdict) {
  const bar = make("div", { className: `bar ${tone(verdict)}` });
  bar.style.left = `${50 + Math.min(0, 50 * verdict.place)}%`;
  bar.style.width = `${Math.abs(50 * verdict.place)}%`;
  const box = make("div", { className: "meter", title: numbers(verdict) }, bar);
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", `${word(verdict)}: ${numbers(verdict)}`);
  return box;
}

function showSame(answer) {
  const all = answer.verdicts.length, same = answer.same;
  const judges = ["", "The model says", "Both say", "All three say"][all];
  $("caution").hidden = !about.drawn || pictures.every((one) => one.drawn);
  const unanimous = same === all || same === 0;
  $("verdict").textContent = unanimous ? `${judges}: ${same ? "✓ same" : "✗ different"}`
    : `They disagree: ${same} of ${all} say same`;
  $("verdict").className = `verdict ${unanimous ? (same ? "same" : "different") : ""}`;
  $("verdicts").replaceChildren(...answer.verdicts.map((verdict) => make("div", { className: "judge" },
    make("b", { textContent: verdict.approach }), meter(verdict),
    make("div", {}, chip(verdict), make("div", { className: "numbers", textContent: numbers(verdict) })))));
}

// Fool it

const levels = () => [0, ...about.radii];
const change = (eps) => (eps ? `at most ${eps} of 255 gray levels` : "nothing");

function showFool(answers) {
  const answer = answers[$("eps").value];
  $("eps-word").textContent = change(levels()[$("eps").value]);
  if (!answer) return;
  const sides = Object.entries(answer.answers).map(([variant, found]) => {
    const verdict = found.fooled ? "fooled" : answer.eps ? "not fooled" : "asked as it is";
    return make("div", { className: "side" },
      make("h3", { textContent: `${variant === "robust" ? "Robust" : "Standard"} model: ${verdict}` }),
      make("p", { className: "flow" }, chip(found.before), " → ", chip(found.after)), meter(found.after),
      make("p", { className: "numbers", textContent: `${numbers(found.after)}; before ${found.before.score.toFixed(2)}` }),
      make("div", { className: "two" },
        make("figure", {}, make("img", { src: found.picture, className: "pixels", alt: "The changed picture" }),
          make("figcaption", { textContent: `what the model sees: ${about.size} × ${about.size} pixels` })),
        make("figure", {}, make("img", { src: found.change, className: "pixels", alt: "The change, made 32 times stronger" }),
          make("figcaption", { textContent: `the change × 32 (largest: ${found.largest})` }))));
  });
  if (sides.length === 1) sides.push(make("p", { className: "quiet", textContent:
    "There is no robust model of this approach in the run: R6 trains it (make run NOTEBOOKS=R6)." }));
  $("fooled").replaceChildren(...sides);
  $("curve").replaceChildren(curve(answers));
}

function curve(answers) {
  const space = "http://www.w3.org/2000/svg", wide = innerWidth > 640 ? 720 : 420, high = 250;
  const x = (eps) => 120 + (eps / Math.max(...levels())) * (wide - 230), y = (place) => 115 - 90 * place;
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Scores of both models by allowed change");
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
  };
  draw("line", { x1: 120, x2: wide - 100, y1: y(0), y2: y(0), stroke: "currentColor", "stroke-dasharray": "6 4" });
  draw("text", { x: 8, y: y(0) + 5 }, "threshold");
  draw("text", { x: 8, y: y(1) + 12 }, "surely same");
  draw("text", { x: 8, y: y(-1) }, "surely different");
  for (const eps of levels()) draw("text", { x: x(eps), y: high - 14, "text-anchor": "middle" }, eps);
  draw("text", { x: wide - 96, y: high - 14 }, "gray levels");
  const looks = { standard: ["var(--different)", ""], robust: ["var(--same)", "8 3"] };
  for (const [variant, [color, dashes]] of Object.entries(looks)) {
    const points = answers.filter((answer) => answer?.answers[variant])
      .map((answer) => [x(answer.eps), y(answer.answers[variant].after.place)]);
    if (!points.length) continue;
    draw("polyline", { points: points.join(" "), fill: "none", stroke: color, "stroke-width": 3, "stroke-dasharray": dashes });
    for (const [cx, cy] of points) draw("circle", { cx, cy, r: 5, fill: color });
    const [right, last] = points[points.length - 1];
    draw("text", { x: right + 12, y: last + 5 }, variant);
  }
  return svg;
}

// Why

function showWhy(answer) {
  $("maps").replaceChildren(...answer.maps.map((source, place) => make("figure", {},
    make("img", { src: source, alt: `Map of the ${place ? "second" : "first"} picture` }),
    make("figcaption", { textContent: place ? "second picture" : "first picture" }))));
  $("parts").replaceChildren(...[{ ...answer, what: "as it is", picture: pictures[0].picture, drop: null }, ...answer.parts]
    .map((part) => make("div", { className: "tile" }, make("img", { src: part.picture, alt: part.what }),
      make("p", {}, make("b", { textContent: part.what })), make("p", {}, chip(part)),
      make("p", { className: "numbers", textContent: `score ${part.score.toFixed(2)}${drop(part)}` }))));
}

const drop = (part) => part.drop === null ? "" : part.drop >= 0 ? `, falls by ${part.drop.toFixed(2)}`
  : `, rises by ${(-part.drop).toFixed(2)}`;

async function hide() {
  $("hidden-picture").src = pictures[0].picture;
  $("hidden-verdict").textContent = hidden.length ? "" : "Nothing is hidden yet.";
  if (!hidden.length) return;
  const answer = await ask("hide", { ...pair(), ...model(), places: hidden });
  $("hidden-picture").src = answer.picture;
  $("hidden-verdict").replaceChildren(chip(answer), ` ${numbers(answer)}${drop(answer)}`);
}

// Search

function showSearch(answer) {
  const files = answer.damaged === 1 ? "1 damaged file is" : `${answer.damaged} damaged files are`;
  const damaged = answer.damaged ? `; ${files} left out` : "";
  const frames = answer.wanted ? `. A frame says whether it is ${answer.wanted}, too` : "";
  $("where").textContent = `Most like your first picture, of ${answer.where}${damaged}${frames}.`;
  $("found").replaceChildren(...answer.found.map((one) => {
    const known = one.right === null ? "" : one.right ? "right" : "wrong";
    const sign = { right: "✓ ", wrong: "✗ ", "": "" }[known];
    return make("div", { className: `tile ${known}` }, make("img", { src: one.picture, alt: one.title }),
      make("p", {}, make("b", { textContent: sign + one.score.toFixed(2) })),
      make("p", { className: "numbers", textContent: one.title }));
  }));
}

// What is asked, and when

const pair = () => ({ first: pictures[0].name, second: pictures[1].name });
const model = () => ({ approach: $("approach").value, variant: $("variant").value });

async function refresh() {
  if (!pictures[0] || !pictures[1]) return;
  const turn = ++asked, latest = () => turn === asked;
  document.body.classList.add("busy");
  say(""); // here, so that what goes wrong meanwhile stays to be read
  try {
    if (tab === "same") {
      const answer = await ask("compare", pair());
      if (latest()) showSame(answer);
    } else if (tab === "why") {
      hidden = [];
      const answer = await ask("why", { ...pair(), ...model() });
      if (latest()) { showWhy(answer); await hide(); }
    } else if (tab === "search") {
      const given = { query: pictures[0].name, approach: $("approach").value, folder: $("folder").value };
      const answer = await ask("search", given);
      if (latest()) showSearch(answer);
    } else {
      const answers = [], approach = $("approach").value, chosen = Number($("eps").value);
      $("eps").oninput = () => showFool(answers);
      for (const place of [chosen, ...levels().keys()].filter((one, at, all) => all.indexOf(one) === at)) {
        answers[place] = await ask("fool", { ...pair(), approach, eps: levels()[place] });
        if (!latest()) return;
        showFool(answers);
      }
    }
  } catch (error) {
    if (latest()) say(error.message);
  } finally {
    if (latest()) document.body.classList.remove("busy");
  }
}

function choose(name) {
  tab = name;
  for (const button of document.querySelectorAll("[role=tab]")) {
    const mine = button.id === `tab-${name}`;
    button.setAttribute("aria-selected", mine);
    button.tabIndex = mine ? 0 : -1;
    $(button.getAttribute("aria-controls")).hidden = !mine;
  }
  $("choice").hidden = name === "same";
  $("variant-label").hidden = name !== "why" || about.robust.length === 0;
  cards[1].hidden = name === "search";
  document.body.classList.toggle("small", name !== "same");
  refresh();
}

// The two cards

function card(place) {
  const element = $("card").content.cloneNode(true).firstElementChild, find = (name) => element.querySelector(name);
  const state = { species: Math.min(10, about.species.length - 1), instance: 1000 + place, factors: {} };
  find("h2").textContent = place ? "Second picture" : "First picture";
  about.species.forEach((name, number) => find(".species").append(make("option", { value: number, textContent: name })));
  find(".species").value = state.species;
  if (!about.drawn) { // a run on photographs
    find(".species").parentElement.hidden = true;
    find(".another").textContent = "Another one of the run's";
  }

  const show = (picture) => {
    pictures[place] = picture;
    find("img").src = picture.picture;
    find("img").alt = picture.title;
    find(".title").textContent = picture.title;
    element.querySelector("details").hidden = !picture.drawn;
    refresh();
  };
  let latest = 0;
  const draw = async () => {
    const turn = ++latest;
    try {
      const picture = await (about.drawn
        ? ask("draw", { species: state.species, instance: state.instance, ...state.factors })
        : ask("sample", { number: state.instance }));
      if (turn !== latest) return;
      if (!picture.drawn) return show(picture);
      for (const input of element.querySelectorAll(".factors [name]"))
        if (!(input.name in state.factors)) input.value = picture.factors[input.name] ?? "";
      show(picture);
    } catch (error) { say(error.message); }
  };
  const upload = async (file) => {
    if (!file) return;
    ++latest;
    if (file.size > about.most_bytes) return say(`The file has more than ${about.most_bytes / 1e6} MB: choose a smaller one.`);
    try {
      const picture = await ask("upload", file);
      show({ ...picture, title: file.name });
    } catch (error) { say(error.message); }
  };

  for (const [name, [least, most, step]] of Object.entries(about.factors)) factor(name, { type: "range", min: least, max: most, step });
  for (const [name, words] of Object.entries(about.words)) factor(name, { words });
  function factor(name, { words, ...options }) {
    const label = { petals: "petals", width: "width of a petal", disc: "size of the center", color: "color", background: "background" }[name];
    const input = words ? make("select", { name }, ...(name === "background" ? [make("option", { value: "", textContent: "as it comes" })] : []),
      ...words.map((one) => make("option", { value: one, textContent: one }))) : make("input", { name, ...options });
    input.id = `${name}-${place}`;
    input.oninput = () => {
      if (input.value === "") delete state.factors[name];
      else state.factors[name] = words ? input.value : Number(input.value);
      draw();
    };
    find(".factors").append(make("label", { htmlFor: input.id, textContent: label }), input);
  }
  find(".species").onchange = (event) => { Object.assign(state, { species: Number(event.target.value), factors: {} }); draw(); };
  find(".another").onclick = () => { state.instance = 1000 + Math.floor(Math.random() * 9000); draw(); };
  find(".file").onchange = (event) => { upload(event.target.files[0]); event.target.value = ""; };
  const zone = find(".drop");
  zone.ondragover = (event) => { event.preventDefault(); zone.classList.add("over"); };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => { event.preventDefault(); zone.classList.remove("over"); upload(event.dataTransfer.files[0]); };
  $("pair").append(element);
  cards.push(element);
  return draw();
}

async function start() {
  about = await ask("about");
  $("run").textContent = about.run;
  for (const [name, title] of Object.entries(about.approaches)) $("approach").append(make("option", { value: name, textContent: title }));
  for (const name of about.robust.length ? ["standard", "robust"] : ["standard"]) $("variant").append(make("option", { value: name, textContent: name }));
  $("eps").max = about.radii.length;
  $("eps").value = about.radii.indexOf(4) + 1;
  for (const id of ["approach", "variant"]) $(id).onchange = refresh;
  $("folder-form").onsubmit = (event) => { event.preventDefault(); refresh(); };
  $("hidden-reset").onclick = () => { hidden = []; hide(); };
  $("hidden-picture").onclick = (event) => {
    const box = event.target.getBoundingClientRect();
    hidden.push([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
    hide().catch((error) => say(error.message));
  };
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((button, place) => {
    button.onclick = () => choose(button.getAttribute("aria-controls"));
    button.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { const next = tabs[(place + step + tabs.length) % tabs.length]; next.focus(); next.click(); }
    };
  });
  for (const event of ["dragover", "drop"]) addEventListener(event, (one) => one.preventDefault()); // a miss opens no file
  await Promise.all([card(0), card(1)]);
}

start().catch((error) => say(error.message));
