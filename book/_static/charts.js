// Draws the book's charts in the colours of the page's theme and in the width there is.
// Each figure.chart holds its Vega-Lite specification and a static picture, which stays if
// anything here fails. The drawing library lies beside this file and is loaded only where needed.
(() => {
  const here = document.currentScript.src;

  const library = () =>
    new Promise((resolve, reject) => {
      if (window.vegaEmbed) return resolve();
      const script = document.createElement("script");
      script.src = new URL("vega.js", here).href;
      script.onload = resolve;
      script.onerror = () => reject(new Error("vega.js is missing"));
      document.head.append(script);
    });

  function themed(config) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--pst-color-text-base").trim() || "#333";
    const faint = style.getPropertyValue("--pst-color-border").trim() || "#ccc";
    const text = { labelColor: ink, titleColor: ink };
    return {
      ...config,
      axis: { ...config.axis, ...text, tickColor: faint, domainColor: faint, gridColor: faint },
      header: { ...config.header, ...text },
      legend: { ...config.legend, ...text },
      rule: { ...config.rule, color: ink },
      text: { ...config.text, color: ink },
    };
  }

  function fitted(spec, room) {
    const legend = { ...spec.config.legend, columns: Math.max(1, Math.floor(room / 110)) };
    const fit = { ...spec, config: themed({ ...spec.config, legend }) };
    if (spec.spec) {
      const axes = 70; // pixels beside a panel, and some for labels such as -100%
      const width = Math.min(spec.spec.width, room - axes - 20);
      fit.spec = { ...spec.spec, width };
      fit.columns = Math.max(1, Math.min(spec.columns, Math.floor((room + 20) / (width + axes))));
    } else {
      fit.width = Math.min(spec.width, room);
    }
    return fit;
  }

  async function draw(figure) {
    const still = figure.querySelector(":scope > svg");
    const live = document.createElement("div");
    live.className = "live";
    try {
      const spec = JSON.parse(figure.querySelector("script").textContent);
      const room = figure.clientWidth;
      if (!room) return; // inside something closed: drawn when it opens
      const dark = document.documentElement.dataset.theme === "dark";
      const { view } = await vegaEmbed(live, fitted(spec, room), {
        actions: false, renderer: "svg", tooltip: { theme: dark ? "dark" : "light" },
      });
      figure.drawnWidth = room;
      figure.view = view;
      figure.querySelector(":scope > .live")?.remove();
      figure.querySelector(":scope > figcaption").before(live);
      figure.setAttribute("role", "figure"); // no longer a mere picture: it has controls
      if (still) still.style.display = "none";
    } catch (error) {
      console.error("chart:", error);
    }
  }

  // What a click on a legend faded comes back with a double click, or one anywhere else.
  function restore(event) {
    if (event.type === "click" && event.target.closest(".role-legend")) return;
    for (const { view } of document.querySelectorAll("figure.chart"))
      if (view && "picked_store" in view.getState().data && view.data("picked_store").length)
        view.data("picked_store", []).runAsync();
  }

  async function start() {
    const figures = [...document.querySelectorAll("figure.chart")];
    if (!figures.length) return;
    await library();
    // One after the other: the first chart should not wait for the last.
    let queue = Promise.resolve();
    const redraw = (some) => {
      for (const figure of some) queue = queue.then(() => draw(figure));
    };
    new MutationObserver(() => redraw(figures)).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
    let timer;
    new ResizeObserver((entries) => {
      clearTimeout(timer);
      timer = setTimeout(
        () => redraw(figures.filter((figure) => figure.clientWidth !== figure.drawnWidth)), 150,
      );
    }).observe(document.querySelector("article") ?? document.body);
    redraw(figures);
    for (const type of ["click", "dblclick"]) document.addEventListener(type, restore);
  }

  document.addEventListener("DOMContentLoaded", () => start().catch((error) => console.error(error)));
})();
