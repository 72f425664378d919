// Figures as SVG and PNG: as they are seen, with a title and the names of what is drawn.
headlab.exports = (() => {
  const {el, theme, state} = headlab;

  const save = async (plot, format, title) => {
    const {width, height} = plot.getBoundingClientRect(), room = 62;
    const own = Object.keys(plot.layout).some(key => key.startsWith("legend"));
    const layout = {
      ...plot.layout, width: Math.round(width), height: Math.round(height) + room, autosize: false,
      paper_bgcolor: theme.colour("card"),
      title: {text: headlab.plain(title()), x: 0.02, y: 0.99, yanchor: "top", font: {size: 14}},
      ...(own ? {} : {showlegend: true, legend: {
        orientation: "h", y: 1.01, yanchor: "bottom", x: 0, font: {size: 11}}}),
      margin: {...plot.layout.margin, t: (plot.layout.margin?.t ?? 0) + room},
    };
    const address = await Plotly.toImage({data: plot.data, layout},
      {format, width: layout.width, height: layout.height, scale: format === "png" ? 2 : 1});
    el("a", {href: address,
             download: `${headlab.fileName(title(), plot.id)}.${format}`}).click();
  };

  // Two buttons for a figure.
  const buttons = (plot, title) => el("span", {class: "exports"}, ["svg", "png"].map(format =>
    el("button", {type: "button", class: "small", "aria-label": `Save as ${format.toUpperCase()}`,
                  onclick: () => save(plot, format, title)}, format.toUpperCase())));

  const make = () => {
    for (const place of document.querySelectorAll("[data-export]")) {
      const plot = headlab.byId(place.dataset.export);
      place.append(buttons(plot, () => `${state.get().run.label}, step ${state.get().step}`));
    }
  };
  return {make, buttons};
})();
