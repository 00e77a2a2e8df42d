// Structures that turn: solidIn(element) returns a function that draws one.
"use strict";
(() => {
  window.solidIn = (pane) => {
    let viewer = null;
    const paper = () =>
      getComputedStyle(document.documentElement).getPropertyValue("--panel").trim();
    const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    const draw = (data) => {
      viewer.clear();
      const atoms = data.positions.map(([x, y, z], i) => ({
        elem: data.symbols[i], x, y, z, serial: i, bonds: [], bondOrder: [],
      }));
      data.bonds.forEach(([i, j]) => {
        [[i, j], [j, i]].forEach(([from, to]) => {
          atoms[from].bonds.push(to);
          atoms[from].bondOrder.push(1);
        });
      });
      // Bonds to atoms beyond the piece end halfway.
      data.stubs.forEach(([i, x, y, z]) => {
        const end = atoms.length;
        atoms.push({ elem: data.symbols[i], x, y, z, serial: end, bonds: [i], bondOrder: [1],
                     properties: { stub: true } });
        atoms[i].bonds.push(end);
        atoms[i].bondOrder.push(1);
      });
      const colours = { prop: "elem", map: data.colours };
      const model = viewer.addModel();
      model.addAtoms(atoms);
      const stick = { radius: 0.12, colorscheme: colours };
      model.setStyle({}, { stick, sphere: { scale: 0.28, colorscheme: colours } });
      model.setStyle({ properties: { stub: true } }, { stick });
      data.cell.forEach((corner, i) => {
        const [a, b] = [corner, data.cell[(i + 1) % 4]].map(([x, y, z]) => ({ x, y, z }));
        viewer.addCylinder({ start: a, end: b, radius: 0.05, color: ink() });
      });
      viewer.zoomTo();
      viewer.rotate(-65, "x");
      viewer.render();
    };
    try {
      viewer = $3Dmol.createViewer(pane, { backgroundColor: paper(), antialias: true });
    } catch (error) {
      viewer = null;
    }
    if (!viewer) {
      pane.textContent = "This browser draws no 3D graphics (WebGL).";
      return () => {};
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      viewer.setBackgroundColor(paper());
      viewer.render();
    });
    return draw;
  };
})();
