// A face's vertices under its expression, and their normals. Model frame: x right, y up, z to the viewer.

class Shape {
  /**
   * base: Float32Array [3 N], the reconstruction. index: Uint32Array [3 T].
   * directions: Int16Array [K * 3 * N], planes; times scales[k], what one standard deviation moves.
   */
  constructor(base, index, directions, scales) {
    Object.assign(this, { base, index, directions, scales });
    this.count = base.length / 3;
    this.expression = new Array(scales.length).fill(0);
    this.positions = base.slice();
    this.normals = new Float32Array(base.length);
    this.ball = this.measure();
    this.updateNormals();
  }

  /** expression: [K] standard deviations away from the reconstruction. */
  setExpression(expression) {
    if (expression.every((value) => value === 0)) {
      this.positions.set(this.base); // no rounding is left of the moves before
    } else {
      expression.forEach((value, k) => this.move(k, value - this.expression[k]));
    }
    this.expression = expression.slice();
    this.updateNormals();
  }

  /** Only the direction whose slider moved is gone through. */
  move(k, change) {
    if (change === 0) return;
    const { count, positions, directions } = this, weight = change * this.scales[k];
    for (let axis = 0; axis < 3; axis++) {
      const plane = (3 * k + axis) * count;
      for (let n = 0; n < count; n++) positions[3 * n + axis] += weight * directions[plane + n];
    }
  }

  /** Area-weighted; plain loops, because 100,000 triangles are done at every move of a slider. */
  updateNormals() {
    const { positions: p, normals: m, index } = this;
    m.fill(0);
    for (let t = 0; t < index.length; t += 3) {
      const i = 3 * index[t], j = 3 * index[t + 1], k = 3 * index[t + 2];
      const ax = p[j] - p[i], ay = p[j + 1] - p[i + 1], az = p[j + 2] - p[i + 2];
      const bx = p[k] - p[i], by = p[k + 1] - p[i + 1], bz = p[k + 2] - p[i + 2];
      const x = ay * bz - az * by, y = az * bx - ax * bz, z = ax * by - ay * bx;
      m[i] += x; m[i + 1] += y; m[i + 2] += z;
      m[j] += x; m[j + 1] += y; m[j + 2] += z;
      m[k] += x; m[k + 1] += y; m[k + 2] += z;
    }
    for (let n = 0; n < m.length; n += 3) {
      const length = Math.sqrt(m[n] * m[n] + m[n + 1] * m[n + 1] + m[n + 2] * m[n + 2]) || 1;
      m[n] /= length; m[n + 1] /= length; m[n + 2] /= length;
    }
  }

  /** {centre, radius} of the reconstruction: middle of its bounding box, distance of the farthest vertex. */
  measure() {
    const { base } = this, centre = [0, 1, 2].map((axis) => {
      let low = Infinity, high = -Infinity;
      for (let i = axis; i < base.length; i += 3) {
        low = Math.min(low, base[i]);
        high = Math.max(high, base[i]);
      }
      return (low + high) / 2;
    });
    let square = 0;
    for (let i = 0; i < base.length; i += 3) {
      const x = base[i] - centre[0], y = base[i + 1] - centre[1], z = base[i + 2] - centre[2];
      square = Math.max(square, x * x + y * y + z * z);
    }
    return { centre, radius: Math.sqrt(square) || 1 };
  }
}
