// What the page shows: the runs of the embedded data, their arrays unpacked when they are asked for.
headlab.data = (() => {
  const halves = (() => {  // float16 has no typed array in every browser
    let table = null;
    const number = bits => {
      const sign = bits >> 15 ? -1 : 1, power = (bits >> 10) & 31, part = bits & 1023;
      if (power === 31) return part ? NaN : sign * Infinity;
      return sign * (power ? 2 ** (power - 15) * (1 + part / 1024) : 2 ** -14 * (part / 1024));
    };
    return bits => {
      table ??= Float32Array.from({length: 65536}, (_, index) => number(index));
      return Float32Array.from(bits, each => table[each]);
    };
  })();
  const KINDS = {f32: Float32Array, f64: Float64Array, u8: Uint8Array, u16: Uint16Array,
                 i16: Int16Array, i32: Int32Array, u32: Uint32Array};

  // Of {"d": dtype, "s": shape, "b": base64 of little-endian bytes}; null stays null.
  const unpack = packed => {
    if (!packed) return null;
    const text = atob(packed.b), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    if (packed.d === "f16") return halves(new Uint16Array(bytes.buffer));
    return new KINDS[packed.d](bytes.buffer);
  };

  // Unpacks each array of an object once, when it is read.
  const unpacked = raw => {
    const found = {};
    for (const [name, value] of Object.entries(raw)) {
      const isPacked = value && typeof value === "object" && "b" in value && "d" in value;
      let kept;
      Object.defineProperty(found, name, {
        enumerable: true,
        get: isPacked ? () => (kept ??= unpack(value)) : () => value,
      });
    }
    return found;
  };

  const placesOf = layers => layers.flatMap(
    (count, layer) => Array.from({length: count}, (_, head) => [layer, head]));

  class Run {
    constructor(raw) {
      for (const name of ["name", "label", "kind", "tokens", "ablate"]) this[name] = raw[name];
      this.checkpoints = [];
      this.take(raw);
    }

    // What is new of the run: `judged` as a whole, further checkpoints, the rest as it is now.
    take({judged, checkpoints = [], signal, state, graph, heads, tokens}) {
      if (graph) {
        Object.assign(this, {graph, heads, places: placesOf(graph.layers)});
        this.index = new Map(heads.map((name, head) => [name.toUpperCase(), head]));
      } else if (!this.heads) {
        Object.assign(this, {graph: null, heads: [], places: [], index: new Map()});
      }
      if (tokens) this.tokens = tokens;
      if (judged) this.judged = unpacked(judged);
      if (signal !== undefined) this.signal = signal;
      if (state !== undefined) this.state = state;
      for (const each of checkpoints) {
        const at = this.checkpoints.findIndex(other => other.step >= each.step);
        const again = at >= 0 && this.checkpoints[at].step === each.step;
        this.checkpoints.splice(at < 0 ? this.checkpoints.length : at, again ? 1 : 0,
                                unpacked(each));
      }
      this.byStep = new Map(this.checkpoints.map(each => [each.step, each]));
      this.highest = undefined;
    }

    get steps() { return this.judged.steps; }
    get columns() { return this.judged.columns; }

    // The index of the checkpoint that is shown at a step: the last one that is not after it.
    at(step) {
      let found = 0;
      for (let i = 0; i < this.steps.length; i++) if (this.steps[i] <= step) found = i;
      return found;
    }

    // The record at an index; undefined where the heads were not measured.
    checkpoint(at) { return this.byStep.get(this.steps[at]); }

    // Numbers of all heads at one checkpoint, of an array [T, H] of `judged`; null without it.
    row(name, at) {
      const all = this.judged[name], many = this.heads.length;
      return all ? all.subarray(at * many, (at + 1) * many) : null;
    }

    // Numbers of one head at all checkpoints, of an array [T, H] of `judged` or [H] of checkpoints.
    series(name, head) {
      const all = this.judged[name], many = this.heads.length;
      return this.steps.map((_, at) =>
        (all ? all[at * many + head] : this.checkpoint(at)?.[name]?.[head] ?? NaN));
    }

    // The largest importance of any head at any checkpoint.
    get top() {
      this.highest ??= Math.max(1e-9, ...this.checkpoints.map(
        each => each.importance.reduce((most, x) => (x > most ? x : most), 0)));
      return this.highest;
    }
  }

  const raw = JSON.parse(document.getElementById("data").textContent);
  return {...raw, runs: raw.runs.map(each => new Run(each)), Run, unpack, unpacked};
})();
