// Every text of the page, a column for each language. To add one, add its code, and a text to each row.

const LANGUAGES = ["en", "de"] as const;
export type Language = (typeof LANGUAGES)[number];

const TEXTS = {
  research: [
    "For research use only. Not for use in diagnostic procedures.",
    "Nur für Forschungszwecke. Nicht für diagnostische Verfahren.",
  ],
  slides: ["Slides", "Präparate"],
  search: ["Search slides", "Präparate suchen"],
  noSlides: [
    "The server offers no slides: start it with --slides FOLDER, or choose an image.",
    "Der Server bietet keine Präparate an: mit --slides ORDNER starten oder ein Bild wählen.",
  ],
  image: ["Analyse an image of this computer", "Ein Bild dieses Rechners auswerten"],
  unshowable: [
    "The browser cannot show this image: save it as PNG, JPEG or WebP, or put it into the slide folder of the server.",
    "Der Browser kann dieses Bild nicht zeigen: als PNG, JPEG oder WebP speichern oder in den Ordner der Präparate legen.",
  ],
  noSize: ["pixel size unknown", "Pixelgröße unbekannt"],
  stage: [
    "Slide. Arrow keys move, plus and minus zoom, 0 shows all, N selects the next cell.",
    "Präparat. Pfeiltasten bewegen, Plus und Minus zoomen, 0 zeigt alles, N wählt die nächste Zelle.",
  ],
  choose: ["Choose a slide.", "Ein Präparat wählen."],
  zoomIn: ["Zoom in", "Vergrößern"],
  zoomOut: ["Zoom out", "Verkleinern"],
  home: ["Show all", "Alles zeigen"],
  draw: ["Draw a box", "Rahmen zeichnen"],
  drawing: [
    "Drag over the slide; or move the box by arrow keys, size it by Shift and arrow keys, and press Enter.",
    "Über das Präparat ziehen; oder den Rahmen mit Pfeiltasten bewegen, mit Umschalt und Pfeiltasten ändern, dann Eingabe.",
  ],
  run: ["Analyse", "Auswerten"],
  pipeline: ["Pipeline", "Verfahren"],
  threshold: ["Threshold of", "Schwelle von"],
  pixelSize: ["Pixel size in µm", "Pixelgröße in µm"],
  runView: ["Analyse the view", "Ansicht auswerten"],
  runBox: ["Analyse the box", "Rahmen auswerten"],
  runSlide: ["Analyse the whole slide", "Ganzes Präparat auswerten"],
  stop: ["Stop", "Abbrechen"],
  submitted: ["The job is listed under Jobs.", "Der Auftrag steht unter Aufträge."],
  running: ["Analysing …", "Wertet aus …"],
  took: ["took", "dauerte"],
  jobs: ["Jobs", "Aufträge"],
  noJobs: ["No jobs yet.", "Noch keine Aufträge."],
  jobsOff: [
    "This server accepts no jobs: start it with --jobs FOLDER.",
    "Dieser Server nimmt keine Aufträge an: mit --jobs ORDNER starten.",
  ],
  jobsUnknown: ["The jobs of this server are not known.", "Die Aufträge dieses Servers sind nicht bekannt."],
  open: ["Show", "Zeigen"],
  queued: ["queued", "wartet"],
  succeeded: ["done", "fertig"],
  failed: ["failed", "gescheitert"],
  cancelled: ["cancelled", "abgebrochen"],
  left: ["left", "verbleibend"],
  cells: ["cells", "Zellen"],
  result: ["Result", "Ergebnis"],
  noResult: ["Nothing is shown yet.", "Noch kein Ergebnis."],
  show: ["Show", "Zeigen"],
  className: ["Class", "Klasse"],
  all: ["All", "Alle"],
  fraction: ["Fraction", "Anteil"],
  inView: ["In view", "In Ansicht"],
  of: ["of", "von"],
  minimum: ["Minimum probability", "Mindestwahrscheinlichkeit"],
  colorBy: ["Colour by", "Farbe nach"],
  fill: ["Fill of outlines", "Füllung der Umrisse"],
  tissue: ["tissue", "Gewebe"],
  noTissue: ["no tissue", "kein Gewebe"],
  steatosisArea: ["Fat vacuoles by area of tissue", "Fettvakuolen nach Gewebefläche"],
  letters: ["Letters on cells", "Buchstaben auf Zellen"],
  outlines: ["Outlines", "Umrisse"],
  raster: ["Class colours of all cells", "Klassenfarben aller Zellen"],
  zoomForCells: ["Zoom in to see outlines of cells.", "Für Zellumrisse vergrößern."],
  layers: ["Layers", "Ebenen"],
  opacity: ["Opacity", "Deckkraft"],
  colormap: ["Colour map", "Farbskala"],
  cell: ["Cell", "Zelle"],
  noCell: ["Click a cell, or press N.", "Eine Zelle anklicken oder N drücken."],
  copy: ["Copy as GeoJSON", "Als GeoJSON kopieren"],
  copied: ["Copied.", "Kopiert."],
  saved: ["Saved as a file.", "Als Datei gespeichert."],
  exports: ["Export", "Export"],
  picture: ["Picture (PNG)", "Bild (PNG)"],
  link: ["Copy link to this view", "Link auf diese Ansicht kopieren"],
  requestId: ["request", "Anfrage"],
  unreachable: [
    "The server does not answer: check the connection and try again.",
    "Der Server antwortet nicht: Verbindung prüfen und erneut versuchen.",
  ],
  fault: [
    "The page failed here: reload it, and report this if it happens again.",
    "Hier ist ein Fehler der Seite aufgetreten: neu laden, und dies melden, wenn es wieder geschieht.",
  ],
  key: ["Key of the server", "Schlüssel des Servers"],
  login: ["Use the key", "Schlüssel verwenden"],
  close: ["Close", "Schließen"],
  theme: ["Dark or light", "Dunkel oder hell"],
  language: ["Deutsch", "English"],
  warnings: ["Warning", "Warnung"],
  navigator: ["Overview", "Übersicht"],
  preparing: [
    "A coarse stand-in: the slide stores no overview, which is being made.",
    "Nur grob: das Präparat enthält keine Übersicht, sie entsteht gerade.",
  ],
  replaced: [
    "The file of this slide was replaced while it was shown: this is its new content, without results of the former one.",
    "Die Datei dieses Präparats wurde ersetzt, während es gezeigt wurde: dies ist ihr neuer Inhalt, ohne Ergebnisse des früheren.",
  ],
  upload: ["Upload", "Hochgeladenes Bild"],
  watch: ["Watch", "Zusehen"],
  compare: ["Compare", "Vergleichen"],
  divider: ["Divider", "Trennlinie"],
  endComparison: ["End the comparison", "Vergleich beenden"],
  leftResult: ["Left", "Links"],
  rightResult: ["Right", "Rechts"],
  values: ["values", "Werte"],
  mean: ["mean", "Mittel"],
  channels: ["Channels", "Kanäle"],
  channelFor: ["Channel for", "Kanal für"],
  colour: ["Colour", "Farbe"],
  darkest: ["Black from", "Schwarz ab"],
  brightest: ["Full colour from", "Volle Farbe ab"],
  stain: ["Stain normalisation", "Färbungsnormierung"],
  stainDefault: ["the pipeline's", "die des Verfahrens"],
  stainNone: ["none", "keine"],
  estimate: ["Expected", "Erwartet"],
  estimateView: ["view", "Ansicht"],
  estimateBox: ["box", "Rahmen"],
  estimateSlide: ["whole slide", "ganzes Präparat"],
  noEstimate: ["No estimate before the first run.", "Vor dem ersten Lauf keine Schätzung."],
  minutes: ["min", "min"],
  hours: ["h", "h"],
  asSeenBy: ["As seen by", "Aus Sicht von"],
  exportScope: ["What is exported", "Was exportiert wird"],
  exportView: ["What is in view, with the filters set", "Was in der Ansicht liegt, mit gesetzten Filtern"],
  exportAll: ["All of the result", "Das ganze Ergebnis"],
  wholeOnly: [
    "A Parquet file holds all of the result: choose that above.",
    "Eine Parquet-Datei enthält das ganze Ergebnis: dies oben wählen.",
  ],
  tooMany: [
    "These are too many cells for a browser: fetch Parquet, or run `slidecascade export` with the job.",
    "Das sind zu viele Zellen für einen Browser: Parquet laden oder den Auftrag mit `slidecascade export` exportieren.",
  ],
  onlyJobs: [
    "Parquet is written for jobs: analyse the whole slide first.",
    "Parquet gibt es für Aufträge: zuerst das ganze Präparat auswerten.",
  ],
  soFar: ["The job runs: these are the cells so far.", "Der Auftrag läuft: dies sind die bisherigen Zellen."],
} as const satisfies Record<string, readonly [string, string]>;

export type TextName = keyof typeof TEXTS;

let language: Language = navigator.language.startsWith("de") ? "de" : "en";

export function currentLanguage(): Language {
  return language;
}

export function setLanguage(chosen: string): void {
  const known = LANGUAGES.find((item) => item === chosen);
  if (known !== undefined) {
    language = known;
  }
}

export function text(name: TextName): string {
  return TEXTS[name][LANGUAGES.indexOf(language)] as string;
}

export function numeral(value: number, digits = 0): string {
  return value.toLocaleString(language, { maximumFractionDigits: digits });
}

/** A time of day with its date. */
export function moment(time: string): string {
  return new Date(time).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}

/** About so long: in seconds, minutes or hours. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${numeral(Math.max(1, Math.round(seconds)))} s`;
  if (seconds < 5400) return `${numeral(Math.round(seconds / 60))} ${text("minutes")}`;
  return `${numeral(seconds / 3600, 1)} ${text("hours")}`;
}
