// A circuit drawn by vis-network: layers upwards, width the |score|, colour the sign or what became
// of an edge since the base, dashes the side that reads. What does not change is not drawn anew.
headlab.network = (() => {
  const {theme, circuit} = headlab;

  const OPTIONS = {
    physics: false, layout: {improvedLayout: false}, autoResize: false,
    nodes: {fixed: true, chosen: false, borderWidthSelected: 0},
    edges: {chosen: false, smooth: false, selectionWidth: 0, hoverWidth: 0},
    interaction: {hover: true, dragNodes: false, zoomView: false, dragView: theme.fine,
                  selectConnectedEdges: false},
  };

  // Puts what differs of some shapes into a vis.DataSet in one go, as each costs a pass over all.
  // What is gone is hidden, and taken out once that is most of it.
  const synced = (set, known, found) => {
    const changed = [], there = new Set();
    for (const each of found) {
      const text = JSON.stringify(each);
      there.add(each.id);
      if (known.get(each.id) !== text) changed.push({...each, hidden: false});
      known.set(each.id, text);
    }
    const gone = [...known.keys()].filter(id => !there.has(id));
    if (gone.length > 2 * there.size + 100) {
      gone.forEach(id => known.delete(id));
      set.remove(gone);
    } else {
      for (const id of gone) {
        if (known.get(id)) changed.push({id, hidden: true});
        known.set(id, "");
      }
    }
    if (changed.length) set.update(changed);
  };

  // Queries, keys and values of a node end a bit apart from each other: [right, down] in radii.
  const PORTS = {q: [-0.6, 0.5], k: [0, 0.8], v: [0.6, 0.5]};
  const portOf = (to, side) => (PORTS[side] ? `${to} ${side}` : to);

  const MANY = 300;  // edges whose dashes take longer than all else

  // The script of the library, which is run when the first circuit is drawn: it takes its time.
  const load = () => {
    if (window.vis) return;
    document.head.append(headlab.el("script", {}, headlab.byId("graph-library").textContent));
  };

  class View {
    constructor(box) {
      this.box = box;
      this.options = {share: 0, changes: false};
      this.focus = null;
      this.known = {nodes: new Map(), edges: new Map()};
    }

    // Of another run, or of one that has grown.
    setRun(run) {
      this.run = run;
      this.graph = circuit.graphOf(run);
      this.top = circuit.strongest(run);
      this.ofNames = new Map(this.graph.nodes.map((node, id) => [node.name.toUpperCase(), id]));
    }

    // Pixels from the layout's units, so that all of it fits into the box.
    measure() {
      const {clientWidth, clientHeight} = this.box, {columns, rows} = this.graph;
      this.dx = Math.max(15, Math.min(150, (clientWidth - 60) / columns));
      this.dy = Math.max(15, Math.min(150, (clientHeight - 40) / rows));
      this.radius = Math.max(3, Math.min(9, 0.22 * Math.min(this.dx, this.dy)));
    }

    // Whether there is room for the names of all nodes.
    get isRoomy() {
      const scale = this.network?.getScale() ?? 1;
      return this.dx * scale > 40 && this.dy * scale > 34;
    }

    looks(at) {
      const {top, radius, focus} = this;
      return headlab.looks.looks(this.run, at, this.options, {top, radius, focus});
    }

    spot({x, y}) { return {x: x * this.dx, y: -y * this.dy}; }

    drawn(look, isRoomy) {
      const {color, isFaded, isOpen, isNear, isShared, shape, id, label} = look;
      const ink = theme.colour(color);
      const isChosen = id === this.focus, place = this.spot(look);
      if (shape === "box") {
        return {id, ...place, shape, label, margin: 4, font: {color: theme.colour("ink"), size: 12},
                color: {background: theme.colour("card"), border: theme.colour(isChosen ? "ink"
                  : "edge")}, borderWidth: isChosen ? 2.5 : 1};
      }
      const strong = isFaded ? theme.faint(color, 0.25) : ink;
      return {id, ...place, shape, size: look.size * (isChosen ? 1.3 : 1),
              label: (isNear && !isShared) || isChosen || (isRoomy && !isFaded) ? label : "",
              borderWidth: isChosen ? 3 : isOpen ? 1.8 : 1,
              color: {background: isOpen ? theme.colour("card") : strong,
                      border: isChosen ? theme.colour("ink") : strong},
              font: {size: 10, vadjust: -3, color: theme.colour("ink"), strokeWidth: 3,
                     strokeColor: theme.colour("card")}};
    }

    // Under the nodes: a dot for each head, in the circuit or not, and the names of layers.
    background(context) {
      const {nodes, layers} = this.graph;
      context.fillStyle = theme.colour("edge");
      context.beginPath();
      for (const node of nodes) {
        if (node.kind !== "head") continue;
        const {x, y} = this.spot(node);
        context.rect(x - 1, y - 1, 2, 2);
      }
      context.fill();
      const size = Math.min(11, this.dy * 0.8);
      if (size * this.network.getScale() < 6) return;
      context.font = `${size}px system-ui, sans-serif`;
      context.fillStyle = theme.colour("soft");
      context.textAlign = "right";
      context.textBaseline = "middle";
      layers.forEach((_, layer) => {
        const {x, y} = this.spot({x: -0.6, y: layer});
        context.fillText(`L${layer}`, x - 8, y);
      });
    }

    // Where edges end: nodes that are not seen.
    ports(edges) {
      const found = new Map(edges.map(({edge: {to, side}}) => [portOf(to, side), [to, side]]));
      return [...found].filter(([, [, side]]) => PORTS[side]).map(([id, [to, side]]) => {
        const {x, y} = this.spot(this.graph.nodes[to]), [right, down] = PORTS[side];
        const size = this.radius * (this.graph.nodes[to].kind === "shared" ? 0.9 : 1);
        return {id, x: x + right * size, y: y + down * size, shape: "dot", size: 0.1, label: "",
                borderWidth: 0, color: {background: "#0000", border: "#0000"}};
      });
    }

    draw(at) {
      if (!this.sets) {
        load();
        this.sets = {nodes: new vis.DataSet(), edges: new vis.DataSet()};
      }
      const {nodes, edges, ties} = this.looks(at);
      const isFew = nodes.length < 100 && this.dx > 30;  // names seldom meet
      this.edges = new Map(edges.map(each => [each.id, each.edge]));
      this.shapes = {
        nodes: [...this.ports(edges), ...nodes.map(each => this.drawn(each,
          this.isRoomy || (isFew && !each.isShared)))],
        edges: [...ties, ...edges].map(({id, from, to, width, dashes, color, edge}) =>
          ({id, from, to: portOf(to, edge?.side), width, dashes, color: {color}})),
      };
      for (const kind of ["nodes", "edges"]) {
        synced(this.sets[kind], this.known[kind], this.shapes[kind]);
      }
      if (!this.network) this.begin();
    }

    begin() {
      this.network = new vis.Network(this.box, this.sets, OPTIONS);
      this.network.canvas.frame.removeAttribute("tabindex");  // nothing there for the keyboard
      this.network.on("beforeDrawing", context => {
        if (this.isMoving) context.setLineDash = () => {};  // until `rest`
        else delete context.setLineDash;
        this.background(context);
      });
      this.fit();
    }

    // While the bar moves many edges are drawn without dashes, which are back when it rests.
    move(at) {
      this.isMoving = this.edges?.size > MANY;
      this.draw(at);
      clearTimeout(this.resting);
      this.resting = setTimeout(() => { this.isMoving = false; this.network.redraw(); }, 400);
    }

    // All of the layout, whatever of it is in the circuit just now.
    fit() {
      const {clientWidth, clientHeight} = this.box, {columns, rows, layers} = this.graph;
      const {x, y} = this.spot({x: columns / 2 - 1.4, y: (layers.length - 1) / 2});
      const scale = Math.min(1, clientWidth / (columns * this.dx + 40),
                             clientHeight / (rows * this.dy + 30));
      this.network?.moveTo({position: {x, y}, scale});
    }
    zoom(by) { this.network?.moveTo({scale: this.network.getScale() * by}); }

    // The node that is meant by a text; undefined without one.
    find(text) {
      const short = text.trim().toUpperCase().replace(/^A(\d+)\.H/, "L$1H")
        .replace(/^M(?:LP)?\s*(\d)/, "MLP $1").replace(/^A(\d+)\./, "L$1 ");
      return this.ofNames.get(short);
    }
  }
  return {View};
})();
