// A minimal document for tests in node. Import it before modules that create elements.

globalThis.document = {
  createElement: (name) => ({
    name,
    attributes: {},
    children: [],
    setAttribute(key, value) {
      this.attributes[key] = value;
    },
    append(...children) {
      this.children.push(...children);
    },
  }),
};
