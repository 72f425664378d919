// The graph of a run as it is drawn: where its nodes stand, and the edges of a checkpoint between
// them. A key or value head that several heads share is a node of its own below them.
headlab.circuit = (() => {
  const {unpack} = headlab.data;

  const named = (name, run, head) => {
    if (head >= 0) return {kind: "head", name: run.heads[head]};
    const found = /^([mx])(\d.*)$/.exec(name);
    if (!found) return {kind: "end", name};  // input and logits
    return found[1] === "m" ? {kind: "mlp", name: `MLP ${found[2]}`}
      : {kind: "mixer", name: `mixer ${found[2]}`};
  };

  // Rows are shifted against each other, so that lines do not run through the nodes between.
  const shift = layer => ((layer * 0.618) % 1) - 0.5;

  // Columns are heads as in the map, rows are layers, the MLPs to the right and a bit above.
  const place = (node, widest, layers) => {
    const {kind, layer} = node;
    if (kind === "head") return [node.column + 0.6 * shift(layer), layer];
    if (kind === "shared") return [node.column + 0.6 * shift(layer), layer - 0.36];
    if (kind === "end") return [(widest - 1) / 2, node.name === "input" ? -1 : layers];
    return [widest + 0.7 + 0.9 * shift(layer) + 0.7 * (node.again ?? 0), layer + 0.4];
  };

  const graphs = new WeakMap();  // by the shape, which a run keeps while it grows

  // {nodes: [{name, kind, layer, head, x, y, feeds}], readers: [{node, side}], ofHead: nodes by heads,
  // columns, rows, layers}
  const graphOf = run => {
    if (!run.graph) return null;
    if (!graphs.has(run.graph)) graphs.set(run.graph, made(run));
    return graphs.get(run.graph);
  };
  const made = run => {
    const {nodes: given, readers: read, layers} = run.graph, widest = Math.max(1, ...layers);
    const nodes = given.name.map((name, i) => {
      const head = given.head[i];
      return {...named(name, run, head), layer: given.layer[i], head,
              column: head < 0 ? 0 : run.places[head][1], again: Number(name.split(".")[1]) || 0};
    });
    const shared = new Map();
    const readers = read.name.map((name, i) => {
      const feeds = read.feeds[i], side = read.side[i];
      if (feeds.length === 1) return {node: feeds[0], side};
      const own = name.replace(/<.*>/, "");
      if (!shared.has(own)) {
        const heads = feeds.map(each => nodes[each]);
        shared.set(own, nodes.length);
        nodes.push({kind: "shared", name: own.replace(/^a(\d+)\./, "L$1 "), head: -1, feeds,
                    layer: heads[0]?.layer ?? 0,
                    column: heads.reduce((sum, each) => sum + each.column, 0) / heads.length});
      }
      return {node: shared.get(own), side};
    });
    for (const node of nodes) [node.x, node.y] = place(node, widest, layers.length);
    const ofHead = new Map(nodes.flatMap((node, i) => (node.head < 0 ? [] : [[node.head, i]])));
    return {nodes, readers, ofHead, columns: widest + 2.7, rows: layers.length + 1, layers};
  };

  const edges = new WeakMap();
  // [{key, from, to, side, score}], the strongest first; empty without a record.
  const edgesOf = (run, checkpoint) => {
    if (!checkpoint) return [];
    if (!edges.has(checkpoint)) {
      const {readers} = graphOf(run), {from, to, score} = checkpoint.edges;
      const ends = unpack(to), scores = unpack(score);
      edges.set(checkpoint, Array.from(unpack(from), (source, i) => {
        const {node, side} = readers[ends[i]];
        return {key: source * readers.length + ends[i], from: source, to: node, side,
                score: scores[i]};
      }));
    }
    return edges.get(checkpoint);
  };

  // The largest |score| of any checkpoint: each has its strongest edge first.
  const strongest = run => Math.max(0, ...run.checkpoints.map(({edges: {score}}) =>
    (score.s[0] ? Math.abs(unpack({...score, b: score.b.slice(0, 16)})[0]) : 0))) || 1;

  return {graphOf, edgesOf, strongest};
})();
