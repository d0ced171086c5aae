// The contrast of all visible text with what lies under it (WCAG 2.2, 1.4.3), and where it is below 4.5.
() => {
  const parse = (text) => {
    const n = text.match(/[\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? [...n.slice(0, 3).map((v) => 255 * v), n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]).concat(1);
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(parse(getComputedStyle(e).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  // In a drawing, the last filled shape before the text that lies under its middle.
  const shape = (text) => {
    const box = text.getBoundingClientRect(), x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
    let under = ground(text.closest("svg"));
    for (const e of text.closest("svg").querySelectorAll("rect, path, text")) {
      if (e === text) break;
      const style = getComputedStyle(e);
      if (e.tagName === "text" || style.fill === "none" || e.closest("clipPath, defs")) continue;
      const at = e.getBoundingClientRect();
      if (at.left <= x && x <= at.right && at.top <= y && y <= at.bottom) under = over(parse(style.fill), under);
    }
    return under;
  };
  const low = [];
  let checked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || element.closest("title, desc, style")) continue;
    if (!element.getClientRects().length) continue;  // of a chart's other shape, which this screen does not show
    const drawn = element.closest("svg"), style = getComputedStyle(element);
    const under = drawn ? shape(element) : ground(element);
    const value = contrast(over(parse(drawn ? style.fill : style.color), under), under);
    checked += 1;
    if (value < 4.5) low.push(`${value.toFixed(2)}: ${text.slice(0, 60)}`);
  }
  return { checked, low };
}
