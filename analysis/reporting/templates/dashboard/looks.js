// How the nodes and edges of a circuit look at a checkpoint: what is drawn, and how. network.js has
// it drawn, drawing.js writes the same as SVG.
headlab.looks = (() => {
  const {theme, circuit} = headlab;
  const {graphOf, edgesOf} = circuit;

  const DASHES = {k: [14, 7], v: [4, 9], g: [14, 5, 3, 5], kv: [14, 5, 3, 5, 3, 5]};
  const dashesOf = side => DASHES[side] ?? false;
  const SHAPES = {retained: "dot", emergent: "triangle", pruned: "triangleDown",
                  transient: "diamond"};

  // Edges of a checkpoint from a share of the strongest score on, and all of the node in focus.
  // changes: also those of the base, with `change`: same, new or gone.
  const chosen = (run, at, {share, changes}, {top, focus}) => {
    const {nodes} = graphOf(run);
    const isOwn = ({from, to}) => from === focus || to === focus
      || Boolean(nodes[to].feeds?.includes(focus));
    const enough = each => Math.abs(each.score) >= share * top || isOwn(each);
    const now = edgesOf(run, run.checkpoint(at));
    if (!changes) return now.filter(enough);
    const before = new Map(edgesOf(run, run.checkpoints[0]).map(each => [each.key, each]));
    const found = now.filter(enough).map(each => ({
      ...each, before: before.get(each.key)?.score ?? null,
      change: before.has(each.key) ? "same" : "new"}));
    const there = new Set(now.map(each => each.key));
    const gone = [...before.values()].filter(each => !there.has(each.key) && enough(each));
    return [...found, ...gone.map(each => ({...each, before: each.score, change: "gone"}))];
  };

  const COLOURS = {same: "soft", new: "emergent", gone: "pruned"};
  // isClose: to the node in focus, null where none is.
  const edgeLook = (each, top, changes, isClose) => {
    const part = Math.abs(each.score) / top;
    const name = changes ? COLOURS[each.change] : each.score < 0 ? "minus" : "plus";
    const least = isClose ? 0.75 : each.change === "same" ? 0.35 : 0.45;
    const share = isClose === false ? 0.06 : Math.min(1, least + 0.5 * part);
    return {id: each.key, from: each.from, to: each.to, dashes: dashesOf(each.side), edge: each,
            width: Math.round(4 * (0.7 + 5.5 * part)) / 4,  // steps that are seen, so less is new
            color: theme.faint(name, share.toFixed(isClose === false ? 2 : 1))};
  };

  const nodeLook = (run, at, node, id, {radius, near}) => {
    const isNear = near?.has(id) ?? false, isFaded = near !== null && !isNear;
    const base = {id, x: node.x, y: node.y, label: node.name, isNear, isFaded};
    if (node.kind === "end") return {...base, shape: "box", color: "ink"};
    if (node.kind !== "head") {
      const size = radius * (node.kind === "shared" ? 0.5 : 0.85);
      return {...base, shape: "square", size, color: "soft", isShared: node.kind === "shared"};
    }
    const state = theme.STATES[run.row("state", at)?.[node.head] ?? 0];
    const isOpen = state !== "retained" && !run.row("called", at)?.[node.head];
    return {...base, shape: SHAPES[state] ?? "dot", size: radius, isOpen,
            color: state === "never" ? "soft" : state};
  };

  // {edges, nodes, ties}: looks by id; ties join a shared key or value head to the heads it feeds.
  const looks = (run, at, options, scale) => {
    const graph = graphOf(run), {top, radius, focus} = scale;
    const list = chosen(run, at, options, scale);
    const touches = each => each.from === focus || each.to === focus;
    const on = new Set(list.flatMap(each => [each.from, each.to]));
    const ties = graph.nodes.flatMap((node, id) => (node.kind === "shared" && on.has(id)
      ? node.feeds.filter(head => on.has(head)).map(head => ({from: id, to: head})) : []));
    const isNear = focus !== null && on.has(focus);
    const own = new Set(ties.filter(({to}) => to === focus).map(({from}) => from));
    const isClose = each => touches(each) || own.has(each.to);
    const near = isNear ? new Set([focus, ...own, ...list.filter(isClose).flatMap(
      each => [each.from, each.to])]) : null;
    return {
      edges: list.map(each => edgeLook(each, top, options.changes, isNear ? isClose(each) : null)),
      ties: ties.map(each => ({...each, id: `${each.from}-${each.to}`, width: 1, dashes: false,
        color: theme.faint("soft", isNear && each.to !== focus ? 0.08 : 0.45)})),
      nodes: graph.nodes.flatMap((node, id) =>
        (on.has(id) || id === focus || node.kind === "end"
          ? [nodeLook(run, at, node, id, {radius, near})] : [])),
    };
  };
  return {looks, dashesOf, DASHES, COLOURS};
})();
