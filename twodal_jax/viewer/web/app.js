// Wires the page: which face, how it is shown, its expression.

const description = JSON.parse(element("description").textContent);
const looks = new Map();
let photo = null, stage = null, current = 0;

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function loadImage(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

async function makeLook(face) {
  const planes = await unpack(face.triangles), count = face.triangles.columns;
  const index = new Uint32Array(3 * count);
  for (let t = 0; t < count; t++) {
    for (let corner = 0; corner < 3; corner++) index[3 * t + corner] = planes[corner * count + t];
  }
  const base = await unpackInterleaved(face.vertices);
  const shape = new Shape(base, index, await unpack(face.directions), face.directions.scale);
  return new Look(shape, face.landmarkIndices, {
    uv: face.uv && (await unpackInterleaved(face.uv)),
    image: face.texture && (await loadImage(face.texture)),
    colours: face.colours && (await unpackInterleaved(face.colours)),
  });
}

function lookOf(number) {
  if (!looks.has(number)) looks.set(number, makeLook(description.faces[number]));
  return looks.get(number);
}

function say(text) {
  element("status").textContent = text;
}

async function choose(number) {
  current = number;
  const face = description.faces[number], look = await lookOf(number);
  if (current !== number) return; // another one was chosen meanwhile
  const picker = element(`face-${number}`);
  if (picker) picker.checked = true;
  photo.select(description.faces, number, stage && look);
  if (stage) stage.show(look, face.rotation);
  const texture = element("mode-texture");
  texture.disabled = !look.materials.texture;
  texture.parentElement.title = texture.disabled ? "This face has no texture" : "";
  if (texture.disabled && texture.checked) element("mode-shaded").checked = true;
  showFacts(face);
  showSliders(face, look);
  applyLook();
}

function applyLook() {
  Promise.resolve(looks.get(current)).then((look) => {
    if (!stage || stage.look !== look) return;
    look.mode = document.querySelector("input[name=mode]:checked").value;
    look.setMode(look.mode);
    stage.showDots(element("dots").checked);
    photo.draw();
  });
}

function showFacts(face) {
  element("facts").replaceChildren(...face.facts.map(([label, value]) =>
    make("div", {}, make("dt", { textContent: label }), make("dd", { textContent: value }))));
}

function written(value) {
  const sign = value > 0 ? "+" : value < 0 ? "−" : "";
  return `${sign}${Math.abs(value).toFixed(1)} σ`;
}

function showSliders(face, look) {
  const list = element("sliders");
  list.replaceChildren();
  look.shape.scales.forEach((_, k) => {
    const id = `expression-${k}`, value = look.shape.expression[k];
    const output = make("output", { htmlFor: id, textContent: written(value) });
    const input = make("input", { id, type: "range", min: -3, max: 3, step: 0.1, value });
    input.setAttribute("aria-valuetext", written(value));
    input.addEventListener("input", () => {
      output.textContent = written(+input.value);
      input.setAttribute("aria-valuetext", output.textContent);
      express(look);
    });
    const name = face.expressionNames[k] || `Expression ${k + 1}`;
    list.append(make("li", {}, make("label", { htmlFor: id, textContent: name }), output, input));
  });
  element("reset-expression").disabled = look.shape.expression.every((value) => value === 0);
}

let expressing = false;

/** Reads the sliders; at most once a frame, however fast they move. */
function express(look) {
  element("reset-expression").disabled = false;
  if (expressing) return;
  expressing = true;
  requestAnimationFrame(() => {
    expressing = false;
    const inputs = [...element("sliders").querySelectorAll("input")];
    look.shape.setExpression(inputs.map((input) => +input.value));
    look.refresh();
    if (stage && stage.look === look) stage.refresh();
    photo.drawMesh();
  });
}

async function resetExpression() {
  const look = await lookOf(current);
  look.shape.setExpression(look.shape.expression.map(() => 0));
  look.refresh();
  showSliders(description.faces[current], look);
  if (stage) stage.refresh();
  photo.drawMesh();
}

function makePicker() {
  if (description.faces.length < 2) return;
  element("faces").append(...description.faces.map((face, number) => {
    const input = make("input", { type: "radio", name: "face", id: `face-${number}` });
    input.addEventListener("change", () => choose(number).catch(fail));
    return make("label", {}, input, make("span", { textContent: face.name || `Face ${number + 1}` }));
  }));
  element("picker").hidden = false;
}

function wire() {
  for (const name of ["landmarks", "box", "mesh", "zoom"]) {
    const input = element(`photo-${name}`);
    photo.set(name, input.checked); // browsers keep the state of boxes when a page is loaded again
    input.addEventListener("change", () => photo.set(name, input.checked));
  }
  for (const input of document.querySelectorAll("input[name=mode]")) {
    input.addEventListener("change", applyLook);
  }
  element("dots").addEventListener("change", applyLook);
  element("reset-view").addEventListener("click", () => stage && stage.resetView());
  element("photo-view").addEventListener("click", () => stage && stage.resetView(true));
  element("reset-expression").addEventListener("click", () => resetExpression().catch(fail));
}

function fail(error) {
  console.error(error);
  say(`The face cannot be shown: ${error.message}`);
}

async function start() {
  document.documentElement.classList.add("scripted");
  photo = new Photo(description.photo, (number) => choose(number).catch(fail));
  makePicker();
  if (!description.faces.length) {
    document.body.classList.add("faceless");
    photo.select([], 0, null);
    wire();
    say("No face was found in this photo.");
    return;
  }
  try {
    stage = new Stage(element("stage"));
  } catch (error) {
    document.body.classList.add("flat");
    element("no-webgl").hidden = false;
  }
  wire();
  await choose(0);
  say("");
}

// For scripts and tests: what is shown now, in the model's frame and unit.
window.twodalViewer = Object.freeze({
  ready: start().catch(fail),
  face: () => current,
  positions: async () => (await lookOf(current)).shape.positions.slice(),
  normals: async () => (await lookOf(current)).shape.normals.slice(),
});
