"use strict";

// The page's own part: NiiVue shows the volumes, this moves it to the places of the report's sentences.
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const find = (selector) => [...document.querySelectorAll(selector)];
  const told = document.getElementById("cited");
  const location = document.getElementById("location");
  const slider = document.getElementById("opacity");
  const note = document.getElementById("preview");
  const buttons = find(".report .sentence");
  const { Niivue, NVImage, SHOW_RENDER, MULTIPLANAR_TYPE, DRAG_MODE } = niivue;
  const nv = new Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    isSliceMM: true, // oblique scans are shown in the patient's axes, in which places are given
    showAllOrientationMarkers: true,
    multiplanarShowRender: SHOW_RENDER.ALWAYS,
    multiplanarLayout: MULTIPLANAR_TYPE.GRID,
    show3Dcrosshair: true,
    crosshairColor: [0.2, 0.9, 0.3, 0.8],
    crosshairWidth: 1,
    crosshairWidthUnit: "mm",
    crosshairGap: 12,
    multiplanarPadPixels: 10,
    fontColor: [1, 0.9, 0.2, 1],
    backColor: [0, 0, 0, 1],
    dragMode: DRAG_MODE.windowing,
    dragAndDropEnabled: false,
    logLevel: "error",
  });
  let chosen = null;
  let evidenceShown = true;

  const bytes = async (id, name) => {
    const inlined = document.getElementById(`volume-${id}`);
    if (inlined !== null) {
      const text = atob(inlined.textContent);
      const array = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) array[i] = text.charCodeAt(i);
      return array.buffer;
    }
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${name} can't be loaded (${answer.status}): is monai-u2 view still running?`);
    return answer.arrayBuffer();
  };

  const letters = ([left, posterior, superior]) =>
    [[left, "L", "R"], [posterior, "P", "A"], [superior, "S", "I"]]
      .map(([mm, more, less]) => `${mm < 0 ? less : more} ${Math.abs(mm).toFixed(1)}`).join(" ") + " mm";

  // mm in LPS, as in report.json; NiiVue counts in RAS
  const crosshairMm = () => {
    const [right, anterior, superior] = nv.frac2mm(nv.scene.crosshairPos, 0, true);
    return [-right, -anterior, superior];
  };

  const moveTo = ([left, posterior, superior]) => {
    nv.scene.crosshairPos = nv.mm2frac([-left, -posterior, superior], 0, true);
    nv.createOnLocationChange();
  };

  // one refresh for map and opacity: each sends the volumes to the graphics card
  const showEvidence = () => {
    const maps = nv.volumes[1];
    if (maps === undefined) return;
    const there = chosen !== null && content.sentences[chosen].place !== null;
    const opacity = there && evidenceShown ? Number(slider.value) : 0;
    const frame = there ? chosen : maps.frame4D;
    if (opacity === maps.opacity && frame === maps.frame4D) return;
    Object.assign(maps, { opacity, frame4D: frame });
    nv.updateGLVolume();
  };

  const describe = (index) => {
    const { place } = content.sentences[index];
    const head = `Sentence ${index + 1} of ${content.sentences.length}: `;
    if (place === null) return `${head}no place in the image.`;
    const { first, last, axis } = place.slices;
    const all = content.shape ? ` (the CT has 0 to ${content.shape[axis] - 1})` : "";
    return `${head}slices ${first} to ${last}${all}\nStrongest at ${letters(place.peak_lps_mm)}, voxel ` +
      `${place.peak_voxel.join(", ")}\nShare of the evidence near it: ${Math.round(100 * place.concentration)} %\n` +
      `Confidence in the place: ${Math.round(100 * place.confidence)} % (fitted on phantoms)`;
  };

  const select = (index) => {
    chosen = index;
    for (const button of buttons) button.setAttribute("aria-pressed", Number(button.dataset.sentence) === index);
    told.textContent = describe(index);
    const { place } = content.sentences[index];
    if (place !== null) moveTo(place.peak_lps_mm);
    showEvidence();
    nv.drawScene();
  };

  const pressWindow = (name) => {
    for (const button of find("button.window")) button.setAttribute("aria-pressed", button.dataset.window === name);
  };

  const setWindow = (name) => {
    [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = content.windows[name];
    nv.updateGLVolume();
    pressWindow(name);
  };

  const step = (by) => {
    if (buttons.length === 0) return;
    const at = buttons.findIndex((button) => Number(button.dataset.sentence) === chosen);
    const next = at < 0 ? (by > 0 ? 0 : buttons.length - 1) : Math.min(Math.max(at + by, 0), buttons.length - 1);
    buttons[next].focus();
    buttons[next].scrollIntoView({ block: "nearest" });
    select(Number(buttons[next].dataset.sentence));
  };

  const pressed = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target === slider) return;
    const window = Object.keys(content.windows)[Number(event.key) - 1];
    if (event.key === "ArrowDown") step(1);
    else if (event.key === "ArrowUp") step(-1);
    else if (window !== undefined) setWindow(window);
    else if (["Enter", " "].includes(event.key) && buttons.includes(event.target)) {
      select(Number(event.target.dataset.sentence));
    } else if (event.key === "e") {
      evidenceShown = !evidenceShown;
      showEvidence();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };

  const load = async (id, name, options) => {
    const url = await bytes(id, name);
    return NVImage.loadFromUrl({ url, name, ...options });
  };

  // the volumes reach the graphics card once, and not with each that is added
  const show = (volumes) => {
    nv.volumes = volumes;
    nv.back = volumes[0];
    nv.overlays = volumes.slice(1);
    nv.updateGLVolume();
  };

  // without a graphics card, what all voxels of a large CT take is minutes
  const hasGraphicsCard = () => {
    const told = nv.gl.getExtension("WEBGL_debug_renderer_info");
    const renderer = told === null ? "" : nv.gl.getParameter(told.UNMASKED_RENDERER_WEBGL);
    return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
  };

  let preview = content.preview !== null;
  const loadAll = async () => {
    note.textContent = "Loading all voxels …";
    const { cal_min, cal_max } = nv.volumes[0];
    const ct = await load("ct", content.ct, { cal_min, cal_max, colormap: "gray" });
    [ct.cal_min, ct.cal_max] = [nv.volumes[0].cal_min, nv.volumes[0].cal_max]; // may have been changed meanwhile
    const place = crosshairMm(); // and so may this
    show([ct, ...nv.volumes.slice(1)]);
    moveTo(place);
    preview = false;
    note.hidden = true;
    nv.drawScene();
  };

  const start = async () => {
    await nv.attachTo("ct");
    nv.onLocationChange = ({ values }) => {
      location.textContent = `${letters(crosshairMm())}, ${Math.round(values[0].value)} HU`;
    };
    const [cal_min, cal_max] = content.windows["soft tissue"];
    const gray = { cal_min, cal_max, colormap: "gray" };
    const volumes = [preview ? load("preview", content.preview, gray) : load("ct", content.ct, gray)];
    if (content.maps !== null) {
      volumes.push(load("maps", content.maps, { cal_min: 0.25, cal_max: 1, colormap: "warm", opacity: 0 }));
    }
    nv.scene.renderAzimuth = 180; // from the front
    nv.scene.renderElevation = 10;
    show(await Promise.all(volumes));
    pressWindow("soft tissue");
    for (const button of buttons) button.addEventListener("click", () => select(Number(button.dataset.sentence)));
    for (const button of find("button.window")) button.addEventListener("click", () => setWindow(button.dataset.window));
    slider.addEventListener("input", showEvidence);
    document.addEventListener("keydown", pressed, { capture: true });
    nv.createOnLocationChange();
    if (!preview) return;
    note.hidden = false;
    find("#whole")[0].addEventListener("click", () => loadAll().catch(failed));
    if (hasGraphicsCard()) loadAll().catch(failed);
  };

  const failed = (error) => {
    location.textContent = `The CT can't be shown: ${error.message}`;
  };
  const ready = start().catch((error) => {
    failed(error);
    throw error;
  });
  window.viewer = {
    ready,
    crosshairMm,
    preview: () => preview,
    shape: () => nv.volumes[0].dims.slice(1, 4),
    evidence: () => (nv.volumes.length < 2 ? null : { frame: nv.volumes[1].frame4D, opacity: nv.volumes[1].opacity }),
    window: () => [nv.volumes[0].cal_min, nv.volumes[0].cal_max],
  };
})();
