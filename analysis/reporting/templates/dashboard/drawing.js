// The drawing of a circuit as SVG, from the same shapes that the screen has, and as PNG from that.
headlab.drawing = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  const points = (...corners) => corners.map(each => each.join(",")).join(" ");
  const OUTLINES = {  // of a mark with its middle at 0, as vis-network draws them
    triangle: r => [[0, -1.15 * r], [1.1 * r, 0.75 * r], [-1.1 * r, 0.75 * r]],
    triangleDown: r => [[0, 1.15 * r], [1.1 * r, -0.75 * r], [-1.1 * r, -0.75 * r]],
    diamond: r => [[0, -r], [r, 0], [0, r], [-r, 0]],
    square: r => [[-r, -r], [r, -r], [r, r], [-r, r]],
  };

  const dash = dashes => (dashes ? {"stroke-dasharray": dashes.join(" ")} : {});
  const line = (edge, from, to) => svg("line", {
    x1: from.x, y1: from.y, x2: to.x, y2: to.y, stroke: edge.color.color,
    "stroke-width": edge.width.toFixed(2), ...dash(edge.dashes)});

  const mark = ({x, y, shape, size = 8, color = {}, borderWidth = 1, label, font = {}}) => {
    const look = {fill: color.background ?? "none", stroke: color.border ?? "none",
                  "stroke-width": borderWidth};
    const text = below => svg("text", {
      x, y: y + below, fill: font.color, "font-size": font.size, "text-anchor": "middle",
      "paint-order": "stroke", stroke: font.strokeColor ?? "none",
      "stroke-width": font.strokeWidth ?? 0}, label);
    if (shape === "text") return [text(4)];
    if (shape === "box") {
      const wide = label.length * 7 + 12;
      return [svg("rect", {x: x - wide / 2, y: y - 11, width: wide, height: 22, rx: 4, ...look}),
              text(4)];
    }
    const outline = shape === "dot" ? svg("circle", {cx: x, cy: y, r: size, ...look})
      : svg("polygon", {points: points(...OUTLINES[shape](size).map(([a, b]) => [x + a, y + b])),
                        ...look});
    return label?.trim() ? [outline, text(size + 11)] : [outline];
  };

  const drawn = ({shapes: {nodes, edges}}) => {
    const spots = new Map(nodes.map(each => [each.id, each]));
    const xs = nodes.map(each => each.x), ys = nodes.map(each => each.y), room = 44;
    const [left, top] = [Math.min(...xs) - room, Math.min(...ys) - room];
    const [width, height] = [Math.max(...xs) - left + room, Math.max(...ys) - top + room];
    const made = svg("svg", {
      xmlns: NS, width, height, viewBox: `${left} ${top} ${width} ${height}`,
      "font-family": "system-ui, sans-serif"},
      svg("rect", {x: left, y: top, width, height, fill: headlab.theme.colour("card")}),
      ...edges.map(each => line(each, spots.get(each.from), spots.get(each.to))),
      ...nodes.filter(each => !(each.size < 1)).flatMap(mark));
    return {text: new XMLSerializer().serializeToString(made), width, height};
  };

  const save = async (view, format) => {
    const {text, width, height} = drawn(view), {step} = headlab.state.get();
    const name = `${headlab.fileName(view.run.label, "circuit", `step-${step}`)}.${format}`;
    if (format === "svg") return void headlab.save(name, "image/svg+xml", text);
    const canvas = headlab.el("canvas", {width: 2 * width, height: 2 * height});
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    canvas.getContext("2d").drawImage(image, 0, 0, 2 * width, 2 * height);
    headlab.el("a", {href: canvas.toDataURL("image/png"), download: name}).click();
  };

  // A short line for a legend.
  const sample = (colour, dashes, width = 2) => svg(
    "svg", {viewBox: "0 0 30 10", "aria-hidden": "true"},
    svg("line", {x1: 0, y1: 5, x2: 30, y2: 5, stroke: colour, "stroke-width": width,
                 ...dash(dashes)}));
  return {save, sample};
})();
