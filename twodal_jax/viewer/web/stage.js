// The 3D view: orbit by mouse, touch and keyboard; drawn only when something has changed.

const FIELD_OF_VIEW = 22, KEY_STEP = Math.PI / 24;

class Stage {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = makeRenderer(canvas);
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.1, 100);
    addLamps(this.camera);
    this.turned = new THREE.Group(); // upright, or as in the photo
    this.scene.add(this.camera, this.turned);
    this.controls = new THREE.OrbitControls(this.camera, canvas);
    this.controls.enableDamping = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.controls.dampingFactor = 0.15;
    this.controls.addEventListener("change", () => this.request());
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("webglcontextrestored", () => this.request());
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    this.distance = 1 / Math.sin((FIELD_OF_VIEW / 2) * (Math.PI / 180));
    this.controls.minDistance = 0.25 * this.distance;
    this.controls.maxDistance = 3 * this.distance;
    this.resetView();
  }

  /** Shows a face; `rotation` is [9] row by row, of the face in the photo, y up. */
  show(look, rotation) {
    this.turned.clear();
    this.look = look;
    const { centre, radius } = look.shape.ball;
    if (!look.onStage) {
      look.onStage = look.copy();
      look.onStage.scale.setScalar(1 / radius);
      look.onStage.position.set(...centre.map((value) => -value / radius));
      look.dotsOnStage = look.dots(0.013 * radius);
      look.onStage.add(look.dotsOnStage);
    }
    this.rotation = new THREE.Matrix4().set(
      ...rotation.slice(0, 3), 0, ...rotation.slice(3, 6), 0, ...rotation.slice(6, 9), 0, 0, 0, 0, 1);
    this.turned.add(look.onStage);
    this.resetView();
  }

  showDots(visible) {
    this.look.dotsOnStage.visible = visible;
    this.request();
  }

  /** After a change of the shape or of the look. */
  refresh() {
    this.look.moveDots(this.look.dotsOnStage);
    this.request();
  }

  /** From the front, or with `asInPhoto` turned as the photo shows the face. */
  resetView(asInPhoto = false) {
    this.turned.rotation.set(0, 0, 0);
    if (asInPhoto) this.turned.setRotationFromMatrix(this.rotation);
    this.controls.target.set(0, 0, 0);
    this.camera.position.set(0, 0, this.distance);
    // What is left of a fling must not turn the new view: without damping, update() forgets it.
    const damped = this.controls.enableDamping;
    this.controls.enableDamping = false;
    this.controls.update();
    this.controls.enableDamping = damped;
    this.request();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const turns = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const zooms = { "+": 1 / 1.15, "=": 1 / 1.15, "-": 1.15 };
    if (event.key in turns) this.orbit(...turns[event.key], 1);
    else if (event.key in zooms) this.orbit(0, 0, zooms[event.key]);
    else if (event.key === "0" || event.key === "Home") this.resetView();
    else return;
    event.preventDefault();
  }

  orbit(sideways, downwards, zoom) {
    const offset = this.camera.position.clone().sub(this.controls.target);
    const place = new THREE.Spherical().setFromVector3(offset);
    place.theta -= sideways * KEY_STEP;
    place.phi = Math.min(Math.max(place.phi + downwards * KEY_STEP, 0.05), Math.PI - 0.05);
    place.radius *= zoom;
    this.camera.position.setFromSpherical(place).add(this.controls.target);
    this.controls.update();
    this.request();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    // The field of view is that of the shorter side: a narrow screen shows the whole face, too.
    const half = Math.tan((FIELD_OF_VIEW / 2) * (Math.PI / 180)) / Math.min(1, this.camera.aspect);
    this.camera.fov = 2 * Math.atan(half) * (180 / Math.PI);
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  request() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.waiting = false;
    this.controls.update();
    this.renderer.render(this.scene, this.camera);
  }
}
