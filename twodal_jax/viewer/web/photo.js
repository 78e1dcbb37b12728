// The photo with landmarks, boxes and mesh. Image pixels, y down, the first pixel's centre at (0, 0).

const SVG = "http://www.w3.org/2000/svg";
// First landmark of each line of the 68, and whether the line closes.
const LINES_68 = [[0, 17], [17, 22], [22, 27], [27, 31], [31, 36], [36, 42, true], [42, 48, true],
  [48, 60, true], [60, 68, true]];

function svg(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
}

class Photo {
  /** size: {width, height} of the photo in image pixels. onPick: called with the number of a clicked face. */
  constructor(size, onPick) {
    Object.assign(this, { size, onPick });
    this.frame = element("frame");
    this.marks = element("marks");
    this.canvas = element("overlay");
    new ResizeObserver(() => this.draw()).observe(this.frame);
    this.shown = { landmarks: true, box: true, mesh: false, zoom: false };
    this.faces = [];
    this.look = null;
  }

  /** faces: of the page's description, with landmarks [68][2]; number: the chosen one. */
  select(faces, number, look) {
    Object.assign(this, { faces, number, look });
    this.setWindow();
  }

  set(name, value) {
    this.shown[name] = value;
    if (name === "zoom") this.setWindow();
    else this.draw();
  }

  setWindow() {
    const { width, height } = this.size;
    this.window = [-0.5, -0.5, width, height];
    const face = this.faces[this.number];
    if (this.shown.zoom && face) {
      const [left, top, right, bottom] = face.frame;
      const side = Math.max(right - left, bottom - top, 8) * 1.15;
      this.window = [(left + right - side) / 2, (top + bottom - side) / 2, side, side];
    }
    const [x, y, w, h] = this.window, image = element("photo").style;
    this.frame.style.setProperty("--aspect", w / h);
    image.width = `${(100 * width) / w}%`;
    image.height = `${(100 * height) / h}%`;
    image.left = `${(-100 * (x + 0.5)) / w}%`;
    image.top = `${(-100 * (y + 0.5)) / h}%`;
    this.draw();
  }

  draw() {
    const shownWidth = this.frame.clientWidth;
    if (!this.window || !shownWidth) return;
    const unit = this.window[2] / shownWidth; // image pixels in one pixel of the screen
    this.marks.setAttribute("viewBox", this.window.join(" "));
    this.marks.replaceChildren();
    this.faces.forEach((face, number) => {
      const chosen = number === this.number;
      if (this.shown.box && face.box) this.drawBox(face, number, chosen, unit);
      if (this.shown.landmarks) this.drawLandmarks(face, chosen, unit);
    });
    this.drawMesh();
  }

  drawBox(face, number, chosen, unit) {
    const [x, y, right, bottom] = face.box;
    const box = svg("rect", {
      x, y, width: Math.max(right - x, 0), height: Math.max(bottom - y, 0), rx: 3 * unit,
      class: chosen ? "box chosen" : "box",
    }, this.marks);
    box.addEventListener("click", () => this.onPick(number));
  }

  drawLandmarks(face, chosen, unit) {
    const group = svg("g", { class: chosen ? "points chosen" : "points" }, this.marks);
    for (const [start, end, closed] of LINES_68) {
      const points = face.landmarks.slice(start, end).map((point) => point.join(",")).join(" ");
      svg(closed ? "polygon" : "polyline", { points }, group);
    }
    const size = Math.min(face.frame[2] - face.frame[0], face.frame[3] - face.frame[1]);
    const radius = Math.min(2.6 * unit, Math.max(size / 60, unit));
    face.landmarks.forEach(([cx, cy], i) => {
      const hidden = face.visible && !face.visible[i];
      svg("circle", { cx, cy, r: radius, class: hidden ? "hidden" : "" }, group);
    });
  }

  drawMesh() {
    this.canvas.hidden = !(this.shown.mesh && this.look);
    if (this.canvas.hidden) return;
    if (!this.renderer) {
      this.renderer = makeRenderer(this.canvas);
      this.scene = new THREE.Scene();
      this.camera = new THREE.OrthographicCamera();
      addLamps(this.camera);
    }
    const { look, window: [x, y, w, h] } = this, { pose } = this.faces[this.number];
    if (!look.onPhoto) {
      // y up here, as three.js has it: the second row changes its sign.
      look.onPhoto = look.copy();
      look.onPhoto.matrixAutoUpdate = false;
      look.onPhoto.matrix.set(...pose[0], ...pose[1].map((value) => -value), ...pose[2], 0, 0, 0, 1);
    }
    look.setMode(look.mode);
    this.scene.clear();
    this.scene.add(this.camera, look.onPhoto);
    const { centre, radius } = look.shape.ball;
    const depth = pose[2][0] * centre[0] + pose[2][1] * centre[1] + pose[2][2] * centre[2] + pose[2][3];
    const reach = 3 * radius * Math.hypot(...pose[2].slice(0, 3));
    Object.assign(this.camera, {
      left: x, right: x + w, top: -y, bottom: -(y + h), near: 0, far: 2 * reach,
    });
    this.camera.position.z = depth + reach;
    this.camera.updateProjectionMatrix();
    this.renderer.setSize(this.frame.clientWidth, this.frame.clientHeight, false);
    this.renderer.render(this.scene, this.camera);
  }
}
