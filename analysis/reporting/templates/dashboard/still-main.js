// What such a page has of the others: figures that are saved, tables that are sorted and searched.
headlab.redraw = headlab.figures.make();
headlab.tables.make();
document.documentElement.dataset.ready = "yes";
