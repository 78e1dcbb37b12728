// A face as three.js objects: geometry and materials, shared by the 3D view and the mesh on the photo.

const CLAY = "#d8c8b8", INSIDE = "#8f8a86", WIRE = "#1f7fc0", DOT = "#00a2e8";

function linear(byte) {
  const value = byte / 255;
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
}

class Look {
  /** landmarks: [68] vertices. uv: [2 N], image: texture, colours: [3 N] RGB bytes; each may be null. */
  constructor(shape, landmarks, { uv, image, colours }) {
    Object.assign(this, { shape, landmarks });
    this.geometry = new THREE.BufferGeometry();
    this.geometry.setIndex(new THREE.BufferAttribute(shape.index, 1));
    this.geometry.setAttribute("position", new THREE.BufferAttribute(shape.positions, 3));
    this.geometry.setAttribute("normal", new THREE.BufferAttribute(shape.normals, 3));
    const basic = (options) => new THREE.MeshBasicMaterial(options);
    let texture = null;
    if (uv && image) {
      this.geometry.setAttribute("uv", new THREE.BufferAttribute(uv, 2));
      const map = new THREE.Texture(image);
      map.colorSpace = THREE.SRGBColorSpace;
      map.anisotropy = 4;
      map.needsUpdate = true;
      texture = basic({ map });
    } else if (colours) {
      const table = Float32Array.from({ length: 256 }, (_, byte) => linear(byte));
      const values = Float32Array.from(colours, (byte) => table[byte]);
      this.geometry.setAttribute("color", new THREE.BufferAttribute(values, 3));
      texture = basic({ vertexColors: true });
    }
    this.materials = {
      texture,
      shaded: new THREE.MeshStandardMaterial({ color: CLAY, roughness: 0.7 }),
      // Drawn into the depth buffer alone: what lies behind the face hides its lines.
      wireframe: basic({
        colorWrite: false, side: THREE.DoubleSide,
        polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1,
      }),
      inside: basic({ color: INSIDE, side: THREE.BackSide }),
      // Lit, so that a mesh finer than the screen still shows its shape.
      lines: new THREE.MeshStandardMaterial({
        color: WIRE, roughness: 0.9, wireframe: true, transparent: true, opacity: 0.35,
      }),
    };
    this.copies = [];
  }

  /** Meshes in a new group, in the model's frame; they follow `setMode` and `refresh`. */
  copy() {
    const mesh = (material) => {
      const made = new THREE.Mesh(this.geometry, material);
      made.frustumCulled = false;
      return made;
    };
    const solid = mesh(this.materials.shaded);
    const inside = mesh(this.materials.inside), lines = mesh(this.materials.lines);
    lines.renderOrder = 1;
    const group = new THREE.Group();
    group.add(solid, inside, lines);
    this.copies.push({ solid, inside, lines });
    return group;
  }

  /** mode: "texture", "shaded" or "wireframe". */
  setMode(mode) {
    for (const { solid, inside, lines } of this.copies) {
      solid.material = this.materials[mode] || this.materials.shaded;
      lines.visible = mode === "wireframe";
      inside.visible = !lines.visible;
    }
  }

  /** After a change of the shape. */
  refresh() {
    this.geometry.attributes.position.needsUpdate = true;
    this.geometry.attributes.normal.needsUpdate = true;
  }

  /** 68 balls of `radius` (model units) on the landmarks; `moveDots` puts them in their places. */
  dots(radius) {
    const ball = new THREE.SphereGeometry(radius, 16, 12);
    const made = new THREE.InstancedMesh(
      ball, new THREE.MeshBasicMaterial({ color: DOT }), this.landmarks.length);
    made.frustumCulled = false;
    this.moveDots(made);
    return made;
  }

  moveDots(dots) {
    const place = new THREE.Matrix4();
    this.landmarks.forEach((vertex, i) => {
      const [x, y, z] = this.shape.positions.subarray(3 * vertex, 3 * vertex + 3);
      dots.setMatrixAt(i, place.makeTranslation(x, y, z));
    });
    dots.instanceMatrix.needsUpdate = true;
  }
}

/** A lamp at the viewer's forehead and a glow, fixed to the camera. */
function addLamps(camera) {
  const lamp = new THREE.DirectionalLight("#ffffff", 2.3);
  lamp.position.set(-0.4, 0.6, 1);
  camera.add(lamp, lamp.target);
  lamp.target.position.set(0, 0, 0);
  camera.add(new THREE.HemisphereLight("#ffffff", "#8d8478", 1.1));
}

/** A renderer with a transparent background; throws where the browser shows no WebGL. */
function makeRenderer(canvas) {
  const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  return renderer;
}
