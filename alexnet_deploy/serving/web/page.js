"use strict";

const element = (id) => document.getElementById(id);
let current = null; // the picture on show, a File or Blob
let question = 0; // counts questions, so that a late answer to an old one is dropped

function headers() {
  const token = element("token").value;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}

async function ask(path, options) {
  const response = await fetch(path, { ...options, method: "POST", headers: headers() });
  if (response.status === 401) element("access").hidden = false;
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? response.statusText);
  return answer;
}

async function listModels() {
  const ready = (await ask("v2/repository/index")).filter((model) => model.state === "READY");
  element("model").replaceChildren(
    ...ready.map(({ name, version }) => {
      const option = new Option(ready.filter((other) => other.name === name).length > 1 ? `${name} (${version})` : name);
      option.value = new URLSearchParams({ model: name, version }).toString();
      return option;
    }),
  );
  say(ready.length ? "" : "No model is loaded.", !ready.length);
}

function draw(predictions) {
  element("answers").replaceChildren(
    ...predictions.map(({ label, probability }) => {
      const line = document.createElement("li");
      const bar = document.createElement("div"); // the number beside it says the same aloud
      bar.className = "bar";
      bar.style.width = `${100 * probability}%`;
      const name = document.createElement("span");
      name.textContent = label;
      const percent = document.createElement("span");
      percent.className = "percent";
      percent.textContent = `${(100 * probability).toFixed(1)} %`;
      line.append(bar, name, percent);
      return line;
    }),
  );
}

async function classify() {
  if (!current) return;
  const mine = ++question;
  say("Classifying…");
  const start = performance.now();
  try {
    const { model, predictions } = await ask(`classify?${element("model").value}`, { body: current });
    if (mine !== question) return;
    draw(predictions);
    say(`${predictions[0].label}, ${(100 * predictions[0].probability).toFixed(1)} %, says ${model} after ${Math.round(performance.now() - start)} ms.`);
  } catch (error) {
    if (mine !== question) return;
    draw([]);
    say(error.message, true);
  }
}

function show(file) {
  if (!file) return;
  current = file;
  const picture = element("picture");
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name ?? "pasted picture";
  picture.hidden = false;
  element("invitation").hidden = true;
  classify();
}

const drop = element("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  show(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => show([...event.clipboardData.files][0]));
element("file").addEventListener("change", (event) => show(event.target.files[0]));
element("model").addEventListener("change", classify);
element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  listModels().then(classify, (error) => say(error.message, true));
});
element("curl").textContent = `curl --data-binary @picture.jpg ${new URL("classify", location)}`;
listModels().catch((error) => say(error.message, true));
