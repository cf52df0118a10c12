// Elements of the page from their parts.

type Attributes = Record<string, string | number | boolean | ((event: Event) => void)>;

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      made.addEventListener(name, value);
    } else if (typeof value === "boolean") {
      made.toggleAttribute(name, value);
    } else {
      made.setAttribute(name, String(value));
    }
  }
  made.append(...children);
  return made;
}

/** A field with its label. */
export function labelled(label: string, field: HTMLElement): HTMLLabelElement {
  return element("label", {}, element("span", {}, label), field);
}

export function button(label: string, act: () => void, attributes: Attributes = {}): HTMLButtonElement {
  return element("button", { type: "button", click: act, ...attributes }, label);
}

export function download(name: string, content: Blob): void {
  const link = element("a", { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/**
 * Whether a text was copied; browsers allow that over HTTPS and on this computer only, and users may forbid it:
 * else it becomes a file.
 */
export async function copy(content: string, name: string): Promise<boolean> {
  const isCopied =
    isSecureContext &&
    (await navigator.clipboard.writeText(content).then(
      () => true,
      () => false,
    ));
  if (!isCopied) download(name, new Blob([content]));
  return isCopied;
}
